//! What the harness needs of the host, on machines of the tests' own making: every tool is a fake.
#![allow(clippy::unwrap_used)]

mod machine;
mod setup;
mod tools;

//! What the harness and the guest's agent say to each other.
//!
//! The two talk over the guest's second serial port, in JSON, one message a line: the agent says
//! [`Event::Ready`], the host answers with one [`Job`], and the agent reports [`Event`]s until
//! [`Event::Finished`]. Every line after `Ready` carries the job's token, so that nothing a test
//! prints, to whatever device, can pass for an outcome.

pub mod proc;
pub mod protocol;

pub use protocol::*;

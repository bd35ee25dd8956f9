//! Tests that do not pass, each in a way of its own: the harness has to tell which, and to go on.

use std::process::{abort, exit};

use crate::guest::{kill, wait_for_the_end};
use crate::misdeeds;

/// What a test binary says last when its test has passed.
const PASSED: &str =
    "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

misdeeds! {
    fn aborts() {
        abort();
    }

    fn claims_to_have_passed_and_exits() {
        println!("{PASSED}");
        exit(0);
    }

    fn claims_to_have_passed_and_fails() {
        println!("{PASSED}");
        panic!("it did not");
    }

    fn exits_as_if_it_had_passed() {
        exit(0);
    }

    fn exits_with_a_status() {
        exit(7);
    }

    /// Until the agent has had enough of it.
    fn hangs() {
        wait_for_the_end();
    }

    fn is_terminated() {
        kill("-TERM", std::process::id());
        wait_for_the_end();
    }

    fn segfaults() {
        // SAFETY: none: nothing is ever mapped at so low an address (vm.mmap_min_addr).
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(16).write_volatile(1) };
    }
}

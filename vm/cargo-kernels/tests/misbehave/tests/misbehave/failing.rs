//! Tests that do not pass, each in a way of its own: the harness has to tell which, and to go on.

use std::process::{abort, exit};

use crate::{kill, misdeeds, wait_for_the_end};

/// Says, as libtest and its like do, that this test has passed.
fn claim_to_have_passed() {
    let name = std::env::args().nth(2).unwrap();
    println!("\x1b[2J\x1b[1;1H\0\x07\u{202e}");
    println!("\ntest {name} ... ok\nok {name}\n");
    println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
}

misdeeds! {
    fn aborts() {
        abort();
    }

    fn claims_to_have_passed_and_exits() {
        claim_to_have_passed();
        exit(0);
    }

    fn claims_to_have_passed_and_fails() {
        claim_to_have_passed();
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

//! libbpf's log, in which the verifier's is included: shown as it comes, or kept for the case that loading fails.

use std::io::Write as _;
use std::sync::Mutex;

use libbpf_rs::{PrintLevel, set_print};

/// libbpf wants a plain function to print with, so what it prints is kept in a global.
static KEPT: Mutex<String> = Mutex::new(String::new());

/// Sends the log to stderr when `verbose`, else keeps it for [`take`].
pub fn install(verbose: bool) {
    set_print(Some(if verbose { (PrintLevel::Debug, show) } else { (PrintLevel::Info, keep) }));
}

/// What was logged since the last call and not shown.
pub fn take() -> String {
    KEPT.lock().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default()
}

fn show(_: PrintLevel, message: String) {
    let _ = std::io::stderr().write_all(message.as_bytes());
}

fn keep(_: PrintLevel, message: String) {
    if let Ok(mut kept) = KEPT.lock() {
        kept.push_str(&message);
    }
}

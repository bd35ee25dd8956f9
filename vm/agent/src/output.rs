//! A program's output, of which the beginning and the end are kept.

use std::collections::VecDeque;

use vmtest_agent::OUTPUT_LIMIT;

/// Bytes kept of the beginning.
const HEAD: usize = OUTPUT_LIMIT / 4;
/// Bytes kept of the end. The rest of the limit is room for the line that says what is missing.
const TAIL: usize = OUTPUT_LIMIT - HEAD - 64;

/// Collects output of any length in memory of a fixed size.
#[derive(Default)]
pub struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Capture {
    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
        self.head.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(TAIL)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(TAIL);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// What was kept, as text, in which U+FFFD is where it was none, and how many bytes are missing in its middle. What
    /// is no text may be longer than [`OUTPUT_LIMIT`] as text; the host cuts it.
    pub fn finish(self) -> (String, u64) {
        let (mut kept, tail) = (self.head, Vec::from(self.tail));
        let dropped_bytes = self.total - (kept.len() + tail.len()) as u64;
        if dropped_bytes > 0 {
            kept.extend_from_slice(format!("\n[{dropped_bytes} bytes left out]\n").as_bytes());
        }
        kept.extend_from_slice(&tail);
        (String::from_utf8_lossy(&kept).into_owned(), dropped_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(bytes: &[u8], step: usize) -> (String, u64) {
        let mut capture = Capture::default();
        bytes.chunks(step).for_each(|chunk| capture.push(chunk));
        capture.finish()
    }

    #[test]
    fn short_output_is_kept_whole_however_it_comes() {
        let text = "ä€𝄞\n".repeat(OUTPUT_LIMIT / 10 - 50);
        for step in [1, 7, 4096, text.len()] {
            assert_eq!(capture(text.as_bytes(), step), (text.clone(), 0), "in steps of {step}");
        }
    }

    #[test]
    fn long_output_keeps_both_ends_and_counts_what_is_missing() {
        for fill in [".", "€"] {
            let bytes = format!("first\n{}\nlast\n", fill.repeat(400_000)).into_bytes();
            for step in [1000, 65536, bytes.len()] {
                let (text, dropped_bytes) = capture(&bytes, step);
                assert!(text.starts_with("first\n") && text.ends_with("\nlast\n") && text.len() <= OUTPUT_LIMIT);
                assert!(text.contains(&format!("\n[{dropped_bytes} bytes left out]\n")));
                assert_eq!(dropped_bytes, (bytes.len() - HEAD - TAIL) as u64);
            }
        }
    }
}

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

/// What a [`Capture`] kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// At most [`OUTPUT_LIMIT`] bytes; what was no UTF-8 is replaced.
    pub text: String,
    /// How many bytes of what was printed are not in it.
    pub dropped_bytes: u64,
}

impl Capture {
    /// Takes what was printed next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
        self.head.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(TAIL)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(TAIL);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// What was kept, as text.
    pub fn finish(self) -> Output {
        let mut head = self.head;
        let tail = Vec::from(self.tail);
        if (head.len() + tail.len()) as u64 == self.total {
            // Nothing is missing in between, so no character is cut in two there.
            head.extend_from_slice(&tail);
            let whole = String::from_utf8_lossy(&head);
            if whole.len() <= OUTPUT_LIMIT {
                return Output { text: whole.into_owned(), dropped_bytes: 0 };
            }
            let (front, back) = head.split_at(head.len() / 2);
            return join(front, back, self.total);
        }
        join(&head, &tail, self.total)
    }
}

/// The start of `head` and the end of `tail`, as text, and between them how much is missing.
fn join(head: &[u8], tail: &[u8], total: u64) -> Output {
    let (start, start_bytes) = lossy_start(head, HEAD);
    let (end, end_bytes) = lossy_end(tail, TAIL);
    let dropped_bytes = total - (start_bytes + end_bytes) as u64;
    Output { text: format!("{start}\n[{dropped_bytes} bytes left out]\n{end}"), dropped_bytes }
}

/// The pieces that lossy text is made of, each with the number of bytes it stands for.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = (&str, usize)> {
    bytes.utf8_chunks().flat_map(|chunk| {
        let valid = chunk.valid().split_inclusive(|_: char| true).map(|c| (c, c.len()));
        let invalid = chunk.invalid();
        valid.chain((!invalid.is_empty()).then_some(("\u{fffd}", invalid.len())))
    })
}

/// As much of the start of `bytes` as fits into `limit` bytes of text, and how much that is.
fn lossy_start(bytes: &[u8], limit: usize) -> (String, usize) {
    let mut text = String::new();
    let mut taken = 0;
    for (piece, length) in pieces(bytes) {
        if text.len() + piece.len() > limit {
            break;
        }
        text.push_str(piece);
        taken += length;
    }
    (text, taken)
}

/// As much of the end of `bytes` as fits into `limit` bytes of text, and how much that is.
fn lossy_end(bytes: &[u8], limit: usize) -> (String, usize) {
    let mut surplus = String::from_utf8_lossy(bytes).len().saturating_sub(limit);
    let mut text = String::new();
    let mut taken = 0;
    for (piece, length) in pieces(bytes) {
        if surplus > 0 {
            surplus = surplus.saturating_sub(piece.len());
        } else {
            text.push_str(piece);
            taken += length;
        }
    }
    (text, taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(bytes: &[u8], step: usize) -> Output {
        let mut capture = Capture::default();
        bytes.chunks(step).for_each(|chunk| capture.push(chunk));
        capture.finish()
    }

    #[test]
    fn short_output_is_kept_whole_however_it_comes() {
        let bytes = "ä€𝄞\n".repeat(OUTPUT_LIMIT / 10 - 50);
        for step in [1, 7, 4096, bytes.len()] {
            assert_eq!(
                capture(bytes.as_bytes(), step),
                Output { text: bytes.clone(), dropped_bytes: 0 },
                "in steps of {step}"
            );
        }
    }

    #[test]
    fn long_output_keeps_both_ends() {
        let mut bytes = b"first\n".to_vec();
        bytes.resize(1_000_000, b'.');
        bytes.extend_from_slice(b"\nlast\n");
        for step in [1000, 65536, bytes.len()] {
            let output = capture(&bytes, step);
            assert!(output.text.starts_with("first\n"));
            assert!(output.text.ends_with("\nlast\n"));
            assert!(output.text.len() <= OUTPUT_LIMIT);
            let marker = format!("\n[{} bytes left out]\n", output.dropped_bytes);
            let kept = output.text.len() - marker.len();
            assert!(output.text.contains(&marker));
            assert_eq!(kept as u64 + output.dropped_bytes, bytes.len() as u64);
        }
    }

    #[test]
    fn what_is_no_text_stays_within_the_limit() {
        for length in [OUTPUT_LIMIT / 2, OUTPUT_LIMIT - 64, OUTPUT_LIMIT, 500_000] {
            let output = capture(&vec![0xff; length], 4096);
            assert!(output.text.len() <= OUTPUT_LIMIT, "{length}: {}", output.text.len());
            assert!(output.text.starts_with('\u{fffd}'));
            let kept = output.text.matches('\u{fffd}').count() as u64;
            assert_eq!(kept + output.dropped_bytes, length as u64);
        }
    }

    #[test]
    fn a_character_cut_by_the_limit_is_counted_once() {
        let text = "€".repeat(100_000);
        let output = capture(text.as_bytes(), 65536);
        assert!(output.text.len() <= OUTPUT_LIMIT);
        let whole = output.text.matches('€').count() as u64 * 3;
        let halves = output.text.matches('\u{fffd}').count();
        assert!(halves <= 2, "{halves} replaced");
        assert!(whole + output.dropped_bytes <= text.len() as u64);
    }
}

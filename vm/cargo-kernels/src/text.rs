//! What a guest wrote, made safe to show: in a terminal, in XML, in Markdown, in HTML.
//!
//! A guest can print anything. Escape sequences move the cursor and rename windows, control characters ring
//! and erase, bidirectional overrides make a line read as another. Here they are removed or made visible.
//! What the text *means* to a format (`<`, `|`, a backtick) is that format's business.

use std::borrow::Cow;

use vmtest_agent::TestId;

/// Spaces that stand for a tab: the reader's tab stops are not the guest's.
const TAB: &str = "    ";
/// Stands for a character that has no picture.
const UNSHOWABLE: char = '\u{fffd}';

/// Several lines: complete escape sequences are gone, other control characters are visible,
/// lines end in `\n` only.
pub fn block(raw: &str) -> String {
    let lines = raw.replace("\r\n", "\n").replace('\r', "\n");
    // Line by line, so that a sequence that is never closed cannot swallow what follows.
    lines.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

/// As [`block`], on one line; of further lines the indent is dropped.
pub fn line(raw: &str) -> String {
    let text = block(raw.trim_end());
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |line, next| line + " " + next.trim())
}

/// The last `count` lines of what a guest wrote, without trailing blank ones, behind a line that says how many are left out.
pub fn tail(raw: &str, count: usize) -> Vec<String> {
    let lines: Vec<&str> = raw.trim_end().lines().collect();
    let skipped = lines.len().saturating_sub(count);
    let left_out = match skipped {
        0 => None,
        1 => Some("… 1 line before".to_owned()),
        lines => Some(format!("… {lines} lines before")),
    };
    left_out.into_iter().chain(lines[skipped..].iter().map(|raw| line(raw))).collect()
}

/// The beginning and the end of a text, at most `limit` bytes of each, with a word on what is between them.
pub fn ends(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= 2 * limit {
        return text.into();
    }
    let boundary = |index: &usize| text.is_char_boundary(*index);
    let head = (0..=limit).rev().find(boundary).unwrap_or(0);
    let tail = (text.len() - limit..text.len()).find(boundary).unwrap_or(text.len());
    let between = tail - head;
    format!("{}\n[… {between} bytes are left out here …]\n{}", &text[..head], &text[tail..]).into()
}

/// The end of a text, at most `width` characters of it: of a path that says more than its beginning.
pub fn end(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    format!("…{}", text.chars().skip(length + 1 - width).collect::<String>())
}

fn visible(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for c in console::strip_ansi_codes(line).chars() {
        match c {
            '\t' => shown.push_str(TAB),
            // U+2400 onwards are pictures of the control characters, in their order.
            '\0'..='\x1f' => shown.push(char::from_u32(0x2400 + u32::from(c)).unwrap_or(UNSHOWABLE)),
            '\x7f' => shown.push('\u{2421}'),
            c if c.is_control() || is_invisible(c) => shown.push(UNSHOWABLE),
            c => shown.push(c),
        }
    }
    shown
}

/// Characters that reorder or hide their neighbours, and those that XML 1.0 forbids.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// A test's output without what a libtest harness prints after it: which test has failed is known.
pub fn without_summary(output: &str) -> &str {
    let Some((printed, rest)) = output.rsplit_once("\nfailures:\n    ") else { return output };
    if !rest.contains("\ntest result: FAILED. 0 passed; 1 failed;") {
        return output;
    }
    let printed = printed.trim_end();
    let printed = printed.strip_suffix("\nfailures:").unwrap_or(printed).trim_end();
    printed.strip_suffix("\nFAILED").unwrap_or(printed)
}

/// A test's output without the frames of backtraces, which are longer than what they are of.
pub fn without_frames(output: &str) -> String {
    let is_frame = |line: &&str| {
        let number = line.trim_start().split_once(": ").map(|(number, _)| number);
        line.starts_with("  ")
            && (line.trim_start().starts_with("at ") || number.is_some_and(|it| it.parse::<u16>().is_ok()))
    };
    let mut in_backtrace = false;
    let lines = output.split_inclusive('\n').filter(|line| {
        in_backtrace = line.starts_with("stack backtrace:") || (in_backtrace && is_frame(line));
        !(in_backtrace && is_frame(line))
    });
    lines.collect()
}

/// What a test is called where its binary need not be named: a binary that cannot list its tests is one.
pub fn test_name(test: &TestId) -> String {
    if test.name.is_empty() { test.binary.clone() } else { test.name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_bidi_characters_are_removed_or_shown() {
        for (raw, shown) in [
            ("\x1b[1;31mred\x1b[0m \x1b]0;owned\x07plain", "red plain"),
            // A sequence that is never closed hides its own line only.
            ("\x1b]0;never closed\npanicked at tests/trace.rs", "\npanicked at tests/trace.rs"),
            ("a\0b\x07c\x7fd\u{9b}2Je\u{85}", "a␀b␇c␡de\u{fffd}"),
            ("10%\r20%\r\ndone\tnow", "10%\n20%\ndone    now"),
            ("\u{202e}dessap 9", "\u{fffd}dessap 9"),
        ] {
            assert_eq!(block(raw), shown);
        }
        assert_eq!(line("  left: 49"), "  left: 49");
        assert_eq!(line("no source has it\n  nix: not here\n"), "no source has it nix: not here");
    }

    #[test]
    fn long_text_keeps_ends_and_whole_characters() {
        assert_eq!((end("6.12", 9), end("/home/me/linux/bzImage", 9)), ("6.12".into(), "…/bzImage".into()));
        assert_eq!(ends("0123456789", 5), "0123456789");
        assert_eq!(ends("äöüäöü", 3), "ä\n[… 8 bytes are left out here …]\nü");
        assert_eq!(tail("a\nb\n\x1b[1mc\r\n\n", 2), ["… 1 line before", "b", "c"]);
        assert!(tail("", 2).is_empty());
    }

    #[test]
    fn libtest_summary_and_backtrace_frames_are_cut() {
        let end = "\nfailures:\n    name\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n\n";
        let its_words = "running 1 test\n\nfailures:\n\n---- name ----\nwhy";
        for (output, expected) in [
            (format!("running 1 test\nits words\nFAILED\n\nfailures:\n{end}"), "running 1 test\nits words"),
            (format!("{its_words}\n\n{end}"), its_words),
            ("its words\nfailures:\n    none\n".to_owned(), "its words\nfailures:\n    none\n"),
        ] {
            assert_eq!(without_summary(&output), expected);
        }
        let output = "why\nstack backtrace:\n   0: f\n             at ./a.rs:1\n  10: g\nnote: x\n   1: kept\n";
        assert_eq!(without_frames(output), "why\nstack backtrace:\nnote: x\n   1: kept\n");
    }
}

//! Why a program was refused: a class and one sentence, from what the verifier and libbpf say. The rules are data:
//! `rules.txt`.

use nix::errno::Errno;
use serde::Serialize;
use vmtest_loader::Record;

use crate::text;

const RULES: &str = include_str!("rules.txt");

/// What tells the class of a refusal: the class, `log` or `said`, a pattern, a sentence.
fn rules() -> impl Iterator<Item = [&'static str; 4]> {
    let lines = RULES.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.splitn(4, " | ").collect::<Vec<_>>().try_into().ok())
}

/// What an error number says where no rule fits and there is no log.
const ERRORS: &[(i32, &str, &str)] = &[
    (nix::libc::ENOMEM, "memory", "the guest's memory does not suffice"),
    (nix::libc::EPERM, "permission", "not permitted: lockdown, or RLIMIT_MEMLOCK before 5.11"),
];

const HELPERS: &str = include_str!("helpers.txt");

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// docs/load.md explains each.
    pub class: &'static str,
    pub sentence: String,
    /// The line of the program's source that the log names last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The end of what was said, up to the line that tells the class.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excerpt: Vec<String>,
}

const EXCERPT_LINES: usize = 4;

/// The last lines that say something: what there was to be counted is no reason.
fn excerpt(text: &str, up_to: usize) -> Vec<String> {
    let noise = ["processed ", "verification time ", "stack depth ", "subprog "];
    let says = |line: &&str| !line.trim().is_empty() && !noise.iter().any(|start| line.starts_with(start));
    let lines: Vec<&str> = text.lines().take(up_to).filter(says).collect();
    lines[lines.len().saturating_sub(EXCERPT_LINES)..].iter().map(|line| text::line(line)).collect()
}

pub fn of(record: &Record) -> Reason {
    let no_log = record.log.trim().is_empty();
    let all = if no_log { &record.said } else { &record.log };
    let source = record.log.lines().rev().find_map(|line| line.strip_prefix("; "));
    let reason = |class, sentence: String| Reason {
        class,
        sentence: text::line(&sentence),
        source: source.map(|line| text::line(line.trim())),
        excerpt: excerpt(all, usize::MAX),
    };
    if let Some(how) = &record.crashed {
        return reason("crash", how.clone());
    }
    // Some types cannot be asked for without BTF.
    let lacks_btf = !record.btf && record.said.contains("failed to find valid kernel BTF");
    if !record.unsupported.is_empty() && !lacks_btf {
        return reason("type", format!("the kernel has no {}", record.unsupported.join(", no ")));
    }
    for [class, place, pattern, sentence] in rules() {
        let text = if place == "log" { &record.log } else { &record.said };
        let lines: Vec<&str> = text.lines().collect();
        // The program's source may hold any words. (An instruction may not; and what is wrong with it may follow it.)
        let mut lines = lines.iter().enumerate().rev().filter(|(_, line)| !line.starts_with(';'));
        if let Some((at, found)) = lines.find_map(|(at, line)| Some((at, find(pattern, line)?))) {
            return Reason { excerpt: excerpt(text, at + 1), ..reason(class, fill(sentence, &found)) };
        }
    }
    match ERRORS.iter().find(|(errno, ..)| no_log && *errno == record.errno) {
        Some((_, class, sentence)) => reason(class, (*sentence).into()),
        None => reason("unclassified", format!("{}; its last words are shown", Errno::from_raw(record.errno))),
    }
}

/// The texts that the stars of a pattern stand for, if the pattern is in the line.
fn find<'l>(pattern: &str, line: &'l str) -> Option<Vec<&'l str>> {
    let mut parts = pattern.split('*');
    let first = parts.next()?;
    let mut rest = &line[line.find(first)? + first.len()..];
    let mut found = Vec::new();
    for part in parts {
        // The last star takes all that is left.
        let end = if part.is_empty() { rest.len() } else { rest.find(part)? };
        found.push(rest[..end].trim());
        rest = &rest[end + part.len()..];
    }
    Some(found)
}

fn fill(sentence: &str, found: &[&str]) -> String {
    if sentence == "$helper2" {
        return helper(found.get(1).copied().unwrap_or_default());
    }
    let mut filled = sentence.to_owned();
    for (index, text) in found.iter().enumerate() {
        filled = filled.replace(&format!("${}", index + 1), text);
    }
    filled
}

/// A helper that the kernel has not, by its number.
fn helper(number: &str) -> String {
    let mut last = 0;
    let mut since = "";
    for word in HELPERS.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace) {
        match word.strip_suffix(':') {
            Some(release) => since = release,
            None => last += 1,
        }
        if !word.ends_with(':') && number.parse() == Ok(last) {
            return format!("the kernel has no helper `bpf_{word}` (number {number}), there since {since}");
        }
    }
    format!("the kernel has no helper of number {number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(log: &str, said: &str) -> Reason {
        of(&Record { log: log.into(), said: said.into(), errno: 22, ..Record::default() })
    }

    #[test]
    fn refusal_has_class_source_and_first_kernel_of_helper() {
        let reason = refused("; return 1;\ninvalid func unknown#173\nprocessed 3 insns\n", "");
        assert_eq!((reason.class, reason.source.as_deref()), ("helper", Some("return 1;")));
        assert_eq!(reason.excerpt, ["; return 1;", "invalid func unknown#173"]);
        assert_eq!(reason.sentence, "the kernel has no helper `bpf_get_func_ip` (number 173), there since 5.15");
        assert!(helper("211").contains("`bpf_cgrp_storage_delete` (number 211), there since 6.2"));
        assert_eq!(helper("9999"), "the kernel has no helper of number 9999");
    }

    /// Several kernels' own words for the same.
    #[test]
    fn every_real_refusal_has_its_class_and_a_filled_sentence() {
        let all = include_str!("../../tests/load/refusals.txt");
        let refusals: Vec<&str> = all.split("\n== ").skip(1).collect();
        assert!(refusals.len() >= 20, "{}", refusals.len());
        for refusal in refusals {
            let (head, log) = refusal.split_once('\n').unwrap_or_default();
            let reason = refused(log, log);
            assert_eq!(head.split(' ').next(), Some(reason.class), "{head}: {reason:?}");
            assert!(!reason.sentence.contains('$'), "{head}: {reason:?}");
        }
    }

    #[test]
    fn the_documentation_explains_every_class() {
        let text = include_str!("../../../../docs/load.md");
        assert_eq!(rules().count(), RULES.lines().filter(|line| !line.starts_with('#')).count());
        let rules = rules().map(|[class, ..]| class);
        let errors = ERRORS.iter().map(|error| error.1);
        for class in rules.chain(errors).chain(["type", "crash", "unclassified"]) {
            assert!(text.contains(&format!("| `{class}` |")), "{class}");
        }
    }

    #[test]
    fn unknown_refusal_is_unclassified_hostile_text_never_panics() {
        for (log, class) in [
            ("something new", "unclassified"),
            ("; invalid func unknown#173\n0: (95) exit\n", "unclassified"),
            ("8: (a6) if w1 < 0xa goto pc-5 infinite loop detected at insn 4\n", "loop"),
            ("invalid func #", "helper"),
            ("R* R1 invalid mem access '", "unclassified"),
            ("invalid access to é, $1 off=$2 size=", "memory-access"),
        ] {
            assert_eq!(refused(log, log).class, class, "{log}");
        }
        let denied = Record { errno: nix::libc::EPERM, ..Record::default() };
        assert_eq!(of(&denied).class, "permission");
        let crashed = Record { crashed: Some("killed".into()), ..Record::default() };
        assert_eq!(of(&crashed).class, "crash");
    }
}

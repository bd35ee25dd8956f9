//! Why a program was refused: a class and one sentence, from what the verifier and libbpf say. Data: see [`RULES`].

use vmtest_loader::Record;

use crate::text;

/// Where a rule looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    /// The verifier's log.
    Log,
    /// libbpf's own words.
    Said,
}

/// A line that tells the class. `*` stands for any text; `$1`, `$2`, … of the sentence are those texts.
struct Rule(&'static str, In, &'static str, &'static str);

/// The first that fits counts, so what explains a later failure comes first.
const RULES: &[Rule] = &[
    Rule(
        "core-field",
        In::Log,
        "failed to resolve CO-RE relocation <*> [*] * (*",
        "the kernel's types have no `$3`",
    ),
    Rule(
        "core-field",
        In::Log,
        "failed to resolve CO-RE relocation <*> [*] *",
        "the kernel's types have no `$3`",
    ),
    Rule(
        "kfunc",
        In::Log,
        "kfunc '*' is referenced but wasn't resolved",
        "the kernel has no kfunc `$1`",
    ),
    Rule("kfunc", In::Said, "extern (func ksym) '*': not found", "the kernel has no kfunc `$1`"),
    Rule(
        "kfunc",
        In::Said,
        "extern (func ksym) '*': func_proto [*] incompatible",
        "the kernel's kfunc `$1` has other parameters",
    ),
    Rule(
        "kfunc",
        In::Log,
        "calling kernel function * is not allowed",
        "this program may not call the kfunc `$1`",
    ),
    Rule(
        "ksym",
        In::Said,
        "extern (var ksym) '*': not found",
        "the kernel has no variable `$1` in its BTF",
    ),
    Rule(
        "kconfig",
        In::Said,
        "extern '*' (strong): not resolved",
        "the kernel's configuration has no $1",
    ),
    Rule(
        "btf",
        In::Said,
        "failed to find valid kernel BTF",
        "the kernel has no BTF of itself (CONFIG_DEBUG_INFO_BTF)",
    ),
    Rule(
        "btf",
        In::Said,
        "Error loading vmlinux BTF: *",
        "the kernel has no BTF of itself (CONFIG_DEBUG_INFO_BTF)",
    ),
    Rule(
        "target",
        In::Said,
        "failed to find kernel BTF type ID of '*':",
        "the kernel has no `$1` to attach to",
    ),
    Rule(
        "target",
        In::Said,
        "failed to find kernel BTF",
        "the kernel has no type or function of the name in the section",
    ),
    Rule(
        "struct-ops",
        In::Said,
        "struct_ops init_kern: struct * is not found in kernel BTF",
        "the kernel has no struct_ops `$1`",
    ),
    Rule("helper", In::Log, "invalid func *#*", "$helper2"),
    Rule(
        "helper-not-here",
        In::Log,
        "program of this type cannot use helper *#*",
        "programs of this type cannot call `$1` on this kernel",
    ),
    Rule(
        "helper-not-here",
        In::Log,
        "unknown func *#*",
        "programs of this type cannot call `$1` on this kernel",
    ),
    Rule(
        "sleepable",
        In::Log,
        "helper call might sleep in a non-sleepable prog",
        "a helper that may sleep needs a sleepable program (`SEC(\"fentry.s/…\")`)",
    ),
    Rule(
        "sleepable",
        In::Log,
        "sleepable helper *#* in non-sleepable prog",
        "`$1` may sleep and needs a sleepable program (`SEC(\"fentry.s/…\")`)",
    ),
    Rule(
        "sleepable",
        In::Log,
        "program must be sleepable to call sleepable kfunc *",
        "`$1` may sleep and needs a sleepable program",
    ),
    Rule(
        "sleepable",
        In::Log,
        "Only fentry* can be sleepable",
        "this kernel knows no sleepable programs of this type",
    ),
    Rule(
        "sleepable",
        In::Log,
        "* is not sleepable",
        "`$1` is no function where a program may sleep",
    ),
    Rule(
        "licence",
        In::Log,
        "cannot call GPL*",
        "a helper is for programs under the GPL; this one's licence is another",
    ),
    Rule(
        "callback",
        In::Log,
        "number of funcs in func_info doesn't match number of subprogs",
        "the kernel counts other functions than the object's BTF: before 5.13 none can be passed to a helper",
    ),
    Rule(
        "loop",
        In::Log,
        "infinite loop detected at insn *",
        "instruction $1 is reached again with nothing changed: an endless loop",
    ),
    Rule(
        "loop",
        In::Log,
        "back-edge from insn * to *",
        "this kernel allows no loop (instructions $1 to $2)",
    ),
    Rule(
        "complexity",
        In::Log,
        "BPF program is too large. Processed * insn",
        "the verifier gave up after $1 instructions",
    ),
    Rule(
        "complexity",
        In::Log,
        "The sequence of * jumps is too complex",
        "the verifier gave up after $1 branches in a row",
    ),
    Rule(
        "stack",
        In::Log,
        "combined stack size of * calls is *. Too large",
        "$1 nested functions use $2 bytes of stack; there are 512",
    ),
    Rule(
        "stack",
        In::Log,
        "invalid write to stack R* off=* size=*",
        "$3 bytes are written at $2, outside of the 512 bytes of stack",
    ),
    Rule("stack", In::Log, "invalid stack * off=* *", "the stack is used at $2; it has 512 bytes"),
    Rule(
        "stack",
        In::Log,
        "invalid stack off=* size=*",
        "$2 bytes are used at $1, outside of the 512 bytes of stack",
    ),
    Rule(
        "memory-access",
        In::Log,
        "R* invalid mem access '*_or_null'",
        "R$1 may be NULL: the program has to check it first",
    ),
    Rule(
        "memory-access",
        In::Log,
        "R* invalid mem access 'scalar'",
        "R$1 is a number, not a pointer, and is read through",
    ),
    Rule(
        "memory-access",
        In::Log,
        "R* invalid mem access 'inv'",
        "R$1 is a number, not a pointer, and is read through",
    ),
    Rule(
        "memory-access",
        In::Log,
        "R* invalid mem access '*'",
        "R$1 is a `$2`, which cannot be read through",
    ),
    Rule("memory-access", In::Log, "R* !read_ok", "R$1 is read and never written"),
    Rule(
        "memory-access",
        In::Log,
        "R* unbounded memory access*",
        "R$1 is used as an offset and has no upper bound",
    ),
    Rule(
        "memory-access",
        In::Log,
        "R* max value is outside of the *",
        "R$1 as an offset may reach outside of the $2",
    ),
    Rule("memory-access", In::Log, "R* min value is *", "R$1 as an offset may be too low: $2"),
    Rule(
        "memory-access",
        In::Log,
        "invalid access to *, * off=* size=*",
        "$4 bytes at $3 are outside of the $1 ($2)",
    ),
    Rule(
        "memory-access",
        In::Log,
        "invalid bpf_context access off=* size=*",
        "programs of this type cannot read $2 bytes at $1 of their context",
    ),
    Rule("memory-access", In::Log, "R* type=* expected=*", "R$1 is a `$2`; the helper wants `$3`"),
    Rule("map", In::Said, "map '*': failed to create: *", "the map `$1` cannot be made: $2"),
];

/// What an error number says where no rule fits and there is no log.
const ERRORS: &[(i32, &str, &str)] = &[
    (nix::libc::ENOMEM, "memory", "the guest's memory does not suffice"),
    (nix::libc::EPERM, "permission", "not permitted: lockdown, or RLIMIT_MEMLOCK before 5.11"),
];

/// The helpers by number, and since when there are which.
const HELPERS: &str = include_str!("helpers.txt");

/// Class and sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The class's name, which docs/load.md explains.
    pub class: &'static str,
    /// What a person should know.
    pub sentence: String,
    /// The end of what was said, up to the line that tells the class.
    pub excerpt: Vec<String>,
}

/// How many lines an excerpt has.
const LINES: usize = 4;

/// The last lines that say something: what there was to be counted is no reason.
fn excerpt(text: &str, up_to: usize) -> Vec<String> {
    let noise = ["processed ", "verification time ", "stack depth ", "subprog "];
    let says =
        |line: &&str| !line.trim().is_empty() && !noise.iter().any(|start| line.starts_with(start));
    let lines: Vec<&str> = text.lines().take(up_to).filter(says).collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|line| text::line(line)).collect()
}

/// Why the program of this record was refused.
pub fn of(record: &Record) -> Reason {
    let all = if record.log.trim().is_empty() { &record.said } else { &record.log };
    let reason = |class, sentence: String| {
        let excerpt = excerpt(all, usize::MAX);
        Reason { class, sentence, excerpt }
    };
    if let Some(how) = &record.crashed {
        return reason("crash", how.clone());
    }
    if !record.unsupported.is_empty() {
        return reason("type", format!("the kernel has no {}", record.unsupported.join(", no ")));
    }
    for Rule(class, place, pattern, sentence) in RULES {
        let text = if *place == In::Log { &record.log } else { &record.said };
        let lines: Vec<&str> = text.lines().collect();
        let mut lines = lines.iter().enumerate().rev();
        if let Some((at, found)) = lines.find_map(|(at, line)| Some((at, find(pattern, line)?))) {
            return Reason {
                excerpt: excerpt(text, at + 1),
                ..reason(class, fill(sentence, &found))
            };
        }
    }
    let empty = record.log.trim().is_empty();
    match ERRORS.iter().find(|(errno, ..)| empty && *errno == record.errno) {
        Some((_, class, sentence)) => reason(class, (*sentence).into()),
        None => reason("unclassified", format!("error {}; see the log", record.errno)),
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
    for word in
        HELPERS.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace)
    {
        match word.strip_suffix(':') {
            Some(release) => since = release,
            None => last += 1,
        }
        if !word.ends_with(':') && number.parse() == Ok(last) {
            return format!(
                "the kernel has no helper `bpf_{word}` (number {number}), there since {since}"
            );
        }
    }
    format!("the kernel has no helper of number {number}")
}

/// The line of the program's source that the log names last.
pub fn source_line(log: &str) -> Option<&str> {
    log.lines().rev().find_map(|line| line.strip_prefix("; ")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(log: &str, said: &str) -> Reason {
        of(&Record { log: log.into(), said: said.into(), errno: 22, ..Record::default() })
    }

    #[test]
    fn a_helper_is_named_with_the_kernel_that_first_has_it() {
        let reason = refused("; x\n0: (85) call unknown#173\ninvalid func unknown#173\n", "");
        assert_eq!(reason.class, "helper");
        assert_eq!(
            reason.sentence,
            "the kernel has no helper `bpf_get_func_ip` (number 173), there since 5.15"
        );
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
        let rules = RULES.iter().map(|rule| rule.0);
        let errors = ERRORS.iter().map(|error| error.1);
        for class in rules.chain(errors).chain(["type", "crash", "unclassified"]) {
            assert!(text.contains(&format!("| `{class}` |")), "{class}");
        }
    }

    #[test]
    fn what_no_rule_knows_is_unclassified() {
        assert_eq!(refused("something new", "").class, "unclassified");
        let denied = Record { errno: nix::libc::EPERM, ..Record::default() };
        assert_eq!(of(&denied).class, "permission");
        let crashed = Record { crashed: Some("killed".into()), ..Record::default() };
        assert_eq!(of(&crashed).class, "crash");
    }

    #[test]
    fn hostile_text_fills_no_sentence_twice_and_never_panics() {
        for log in
            ["invalid func #", "R* R1 invalid mem access '", "invalid access to é, $1 off=$2 size="]
        {
            let _ = refused(log, log);
        }
    }
}

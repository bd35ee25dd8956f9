//! Kernel configurations: reading them, and checking that what the guest and the program need is there.
//!
//! What is needed is written in fragments such as `vm/kconfig`, a line each:
//!
//! ```text
//! # a comment
//! CONFIG_VIRTIO_BLK=y|m  # why it is needed
//! ```
//!
//! `y` is built in, `m` a module (which must then be in the kernel's module directory), `n` not set; `|` parts the
//! values that will do.

use anyhow::{Context, Result};

use super::Kernel;
use super::kernel::Config;

/// Reads a configuration as the kernel's build writes it.
pub fn parse(text: &str) -> Config {
    let option = |line: &str| {
        let (name, value) = line.split_once('=')?;
        name.starts_with("CONFIG_").then(|| (name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(option).collect()
}

/// One line of a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The option, such as `CONFIG_BPF_SYSCALL`.
    pub option: String,
    /// The values that will do.
    pub values: Vec<String>,
    /// Why it is needed.
    pub why: String,
    /// The fragment that says so, as a person knows it.
    pub fragment: String,
}

/// What a kernel lacks of what is needed: options, and what is wrong with each in a sentence. `None` when its configuration
/// could not be found: then only the boot can tell.
pub fn missing(kernel: &Kernel, needs: Vec<Need>) -> Option<Vec<(String, String)>> {
    let config = kernel.config.as_ref()?;
    let unmet = |Need { option, values, why, fragment }| {
        let found = config.get(&option).map(String::as_str);
        let will_do = values.iter().any(|value| value == found.unwrap_or("n"));
        if will_do && (found != Some("m") || kernel.modules.is_some()) {
            return None;
        }
        let wrong = match found {
            Some(found) if will_do => format!("{option}={found}, but there are no modules"),
            Some(found) => format!("{option}={found}, needed is {}", values.join("|")),
            None => format!("{option} is not set, needed is {}", values.join("|")),
        };
        Some((option, format!("{wrong}: {why} ({fragment})")))
    };
    Some(needs.into_iter().filter_map(unmet).collect())
}

/// Reads the text of a fragment, which people know as `fragment`.
pub fn needs(text: &str, fragment: &str) -> Result<Vec<Need>> {
    let lines = text.lines().map(str::trim).zip(1..).filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    let need = |(line, number)| {
        let wrong = || format!("{fragment}:{number}: expected `CONFIG_NAME=y|m  # why`, found {line:?}");
        parse_need(line, fragment).with_context(wrong)
    };
    lines.map(need).collect()
}

fn parse_need(line: &str, fragment: &str) -> Option<Need> {
    let (setting, why) = line.split_once('#')?;
    let (option, values) = setting.trim().split_once('=')?;
    let name = option.strip_prefix("CONFIG_")?;
    let good_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let values: Vec<_> = values.split('|').map(|value| value.trim().to_owned()).collect();
    let good_values = values.iter().all(|value| !value.is_empty());
    let (option, why, fragment) = (option.to_owned(), why.trim().to_owned(), fragment.to_owned());
    (good_name && good_values && !why.is_empty()).then_some(Need { option, values, why, fragment })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "#\n# Linux/x86 6.1.0 Kernel Configuration\n#\nCONFIG_A=y\nCONFIG_B=m\n\
        # CONFIG_C is not set\nCONFIG_D=\"text # with = signs\"\n";

    fn kernel(config: Option<&str>, modules: Option<&str>) -> Kernel {
        Kernel { modules: modules.map(Into::into), config: config.map(parse), ..crate::fake::kernel() }
    }

    #[test]
    fn missing_option_is_named_with_its_reason() {
        let with = kernel(Some(CONFIG), Some("lib/modules/6.1"));
        let without = kernel(Some(CONFIG), None);
        let lacks = |kernel: &Kernel, fragment: &str| -> Option<Vec<String>> {
            let missing = missing(kernel, needs(fragment, "kconfig").unwrap())?;
            Some(missing.into_iter().map(|(_, wrong)| wrong).collect())
        };
        let all = "# needed\n\nCONFIG_A=y # a\nCONFIG_A=y|m # a\nCONFIG_B=y|m # b\nCONFIG_C=n # c\n";
        assert_eq!(lacks(&with, all), Some(Vec::new()));
        assert_eq!(lacks(&kernel(None, None), all), None);
        for (kernel, line, said) in [
            (&with, "CONFIG_A=n # a", "CONFIG_A=y, needed is n: a (kconfig)"),
            (&with, "CONFIG_B=y # early", "CONFIG_B=m, needed is y: early (kconfig)"),
            (&with, "CONFIG_C=y|m # c", "CONFIG_C is not set, needed is y|m: c (kconfig)"),
            (&with, "CONFIG_D=n # d", "CONFIG_D=\"text # with = signs\", needed is n: d (kconfig)"),
            (&without, "CONFIG_B=y|m # b", "CONFIG_B=m, but there are no modules: b (kconfig)"),
            (&without, "CONFIG_B=y # early", "CONFIG_B=m, needed is y: early (kconfig)"),
        ] {
            assert_eq!(lacks(kernel, line), Some(vec![said.to_owned()]));
        }
    }

    #[test]
    fn a_fragment_that_cannot_be_understood_is_refused() {
        let name = ["CONFIG_A", "A=y # a", "CONFIG_=y # a"];
        for line in name.into_iter().chain(["CONFIG_A=y", "CONFIG_A=y #", "CONFIG_A=y| # a"]) {
            let error = needs(&format!("# good\n{line}\n"), "kconfig").unwrap_err();
            let expected = "kconfig:2: expected `CONFIG_NAME=y|m  # why`, found ";
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}

//! Debian's pool: the mirrors that apt is configured with on this host, and the permanent archive.

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use url::Url;

use super::digest::Hex;
use super::download::Address;
use super::pins::PoolFile;

/// Debian keeps every file it ever published here, named by hash (<https://snapshot.debian.org>).
const ARCHIVE: &str = "https://snapshot.debian.org/file/";

/// Every address at which `file` may be found, best first; `archive` is another permanent archive than Debian's.
pub fn addresses(file: &PoolFile, archive: Option<&Url>) -> Vec<Address> {
    static MIRRORS: OnceLock<Vec<Address>> = OnceLock::new();
    let at = |mirror: &Address| Some(Address { url: mirror.url.join(&file.path).ok()?, proxy: mirror.proxy.clone() });
    let mut addresses: Vec<_> = MIRRORS.get_or_init(mirrors).iter().filter_map(at).collect();
    // The archive names files by SHA-1; by SHA-256 where that is all that is pinned.
    let hash = file.sha1.as_ref().map_or(file.sha256.as_str(), Hex::as_str);
    let archive = archive.cloned().or_else(|| Url::parse(ARCHIVE).ok());
    let archived = archive.and_then(|archive| archive.join(hash).ok());
    addresses.extend(archived.map(|url| Address { url, proxy: None }));
    addresses
}

/// The roots of the mirrors in apt's sources, in apt's order; none on a host without apt. Apt itself is asked, so that
/// one-line and deb822 sources are understood alike; without release info it names those that it has not yet read, too.
/// Another distribution's are among them: they have no such file, or the hash tells.
fn mirrors() -> Vec<Address> {
    let listed = output("apt-get", &["indextargets", "--no-release-info", "--format", "$(REPO_URI)"]);
    let (listed, mut seen) = (listed.unwrap_or_default(), HashSet::new());
    listed.lines().filter(|uri| seen.insert(*uri)).flat_map(mirrors_at).collect()
}

/// What a URI of apt's sources stands for: itself, or the mirrors listed in a file (apt-transport-mirror(1)).
fn mirrors_at(uri: &str) -> Vec<Address> {
    let Some(list) = uri.strip_prefix("mirror+file:") else { return mirror(uri).into_iter().collect() };
    let list = std::fs::read_to_string(list.trim_end_matches('/')).unwrap_or_default();
    let first_words = list.lines().filter_map(|line| line.split_whitespace().next());
    first_words.filter(|word| !word.starts_with('#')).filter_map(mirror).collect()
}

fn mirror(root: &str) -> Option<Address> {
    let url = Url::parse(&format!("{}/", root.trim_end_matches('/'))).ok()?;
    match url.scheme() {
        "http" | "https" => Some(Address { proxy: proxy(&url), url }),
        "file" => Some(Address { url, proxy: None }),
        // A CD, Tor, and what else apt has methods for.
        _ => None,
    }
}

/// The proxy that apt would use for `url`, if it is told to use one (apt.conf(5), apt-transport-http(1)).
fn proxy(url: &Url) -> Option<String> {
    let general = format!("Acquire::{}::Proxy", url.scheme());
    let own = format!("{general}::{}", url.host_str().unwrap_or_default());
    let answer = output("apt-config", &["shell", "OWN", &own, "GENERAL", &general])?;
    let value = |name: &str| {
        let quoted = answer.lines().find_map(|line| line.strip_prefix(name))?;
        Some(quoted.trim_matches('\'').to_owned()).filter(|value| !value.is_empty())
    };
    value("OWN=").or_else(|| value("GENERAL=")).filter(|proxy| proxy != "DIRECT")
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

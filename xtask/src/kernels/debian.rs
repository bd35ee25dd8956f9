//! Debian's pool: the mirrors that apt is configured with on this host, and the permanent archive.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use url::Url;

use super::digest::Hex;
use super::download::Address;
use super::pins::PoolFile;

/// Debian keeps every file it ever published here, named by hash (<https://snapshot.debian.org>).
const ARCHIVE: &str = "https://snapshot.debian.org/file/";
/// Another place that serves files by hash in the same way, for hosts that cannot reach Debian's; https only.
const ARCHIVE_VARIABLE: &str = "VMTEST_DEBIAN_ARCHIVE";

/// Every address at which `file` may be found, best first.
///
/// # Errors
///
/// When `$VMTEST_DEBIAN_ARCHIVE` is no https address.
pub fn addresses(file: &PoolFile) -> Result<Vec<Address>> {
    static MIRRORS: OnceLock<Vec<Address>> = OnceLock::new();
    let mirrors = MIRRORS.get_or_init(mirrors).iter().filter_map(|mirror| {
        Some(Address { url: mirror.url.join(&file.path).ok()?, proxy: mirror.proxy.clone() })
    });
    let mut addresses: Vec<_> = mirrors.collect();
    // The archive names files by SHA-1; by SHA-256 where that is all that is known.
    let sha1 = file.pinned.sha1.as_ref().map(Hex::as_str);
    if let Some(hash) = sha1.or(file.pinned.sha256.as_ref().map(Hex::as_str)) {
        addresses.push(Address { url: archive()?.join(hash)?, proxy: None });
    }
    Ok(addresses)
}

fn archive() -> Result<Url> {
    let base = match std::env::var(ARCHIVE_VARIABLE) {
        Ok(base) if base.ends_with('/') => base,
        Ok(base) => base + "/",
        Err(_) => ARCHIVE.to_owned(),
    };
    let url = Url::parse(&base).with_context(|| format!("{ARCHIVE_VARIABLE}={base}"))?;
    ensure!(url.scheme() == "https", "{ARCHIVE_VARIABLE}={base}: expected an https address");
    Ok(url)
}

/// The roots of the Debian mirrors in apt's sources, in apt's order; none on a host without apt.
fn mirrors() -> Vec<Address> {
    // What `apt-get update` would fetch, asked of apt itself: one-line and deb822 sources alike. The origin is
    // known only once that ran; it tells Debian from the others.
    let format = "$(ORIGIN) $(REPO_URI)";
    let Some(listing) = output("apt-get", &["indextargets", "--format", format]) else {
        return Vec::new();
    };
    let mut roots = Vec::new();
    for line in listing.lines() {
        let Some((origin, root)) = line.rsplit_once(' ') else { continue };
        let ours = origin.is_empty() || origin == "Debian";
        if ours && !roots.contains(&root) {
            roots.push(root);
        }
    }
    roots.into_iter().flat_map(mirrors_at).collect()
}

/// What a URI of apt's sources stands for: itself, or the mirrors listed in a file (apt-transport-mirror(1)).
fn mirrors_at(uri: &str) -> Vec<Address> {
    let uri = uri.strip_prefix("copy:").map_or(uri.to_owned(), |path| format!("file:{path}"));
    let listed = ["mirror+file:", "mirror:file:"].iter().find_map(|kind| uri.strip_prefix(kind));
    let Some(list) = listed else { return mirror(&uri).into_iter().collect() };
    let list = std::fs::read_to_string(list.trim_end_matches('/')).unwrap_or_default();
    let first_word = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let uris = list.lines().filter_map(first_word).filter(|word| !word.starts_with('#'));
    uris.filter_map(|uri| mirror(&uri)).collect()
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
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

//! Debian's pool: the mirrors that apt is configured with on this host, and the permanent archive.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

use url::Url;

use super::download::Address;
use super::pins::PoolFile;

/// Debian keeps every file it ever published here, named by hash (<https://snapshot.debian.org>).
const ARCHIVE: &str = "https://snapshot.debian.org/file/";
/// Another place that serves files by hash in the same way, for hosts that cannot reach Debian's; https only.
const ARCHIVE_VARIABLE: &str = "VMTEST_DEBIAN_ARCHIVE";

/// Every address at which `file` may be found, best first.
pub fn addresses(file: &PoolFile) -> Vec<Address> {
    static MIRRORS: OnceLock<Vec<Address>> = OnceLock::new();
    let mirrors = MIRRORS.get_or_init(mirrors).iter().filter_map(|mirror| {
        Some(Address { url: mirror.url.join(&file.path).ok()?, proxy: mirror.proxy.clone() })
    });
    mirrors.chain(in_archive(file)).collect()
}

/// The file in the archive, which names files by SHA-1; by SHA-256 where that is all that is known.
fn in_archive(file: &PoolFile) -> Option<Address> {
    let base = std::env::var(ARCHIVE_VARIABLE).unwrap_or_else(|_| ARCHIVE.to_owned());
    let base = Url::parse(&base).ok().filter(|url| url.scheme() == "https")?;
    let sha1 = file.pinned.sha1.as_ref().map(|hash| hash.as_str());
    let hash = sha1.or(file.pinned.sha256.as_ref().map(|hash| hash.as_str()))?;
    Some(Address { url: base.join(hash).ok()?, proxy: None })
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
    roots.into_iter().filter_map(mirror).collect()
}

fn mirror(root: &str) -> Option<Address> {
    let url = Url::parse(root).ok()?;
    let proxy = matches!(url.scheme(), "http" | "https").then(|| proxy(&url))?;
    Some(Address { url, proxy })
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

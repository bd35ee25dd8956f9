//! Debian's pool: the mirrors that apt is configured with on this host, and the permanent archive.

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
    let mirrors = MIRRORS
        .get_or_init(mirrors)
        .iter()
        .filter_map(|mirror| Some(Address { url: mirror.url.join(&file.path).ok()?, proxy: mirror.proxy.clone() }));
    let mut addresses: Vec<_> = mirrors.collect();
    // The archive names files by SHA-1; by SHA-256 where that is all that is pinned.
    let hash = file.sha1.as_ref().map_or(file.sha256.as_str(), Hex::as_str);
    let archive = archive.cloned().or_else(|| Url::parse(ARCHIVE).ok());
    if let Some(url) = archive.and_then(|archive| archive.join(hash).ok()) {
        addresses.push(Address { url, proxy: None });
    }
    addresses
}

/// The roots of the mirrors in apt's sources, in apt's order; none on a host without apt.
fn mirrors() -> Vec<Address> {
    let everything = index_targets(&["--no-release-info"]);
    let identified = index_targets(&[]);
    pick(&everything, &identified).into_iter().flat_map(mirrors_at).collect()
}

/// What `apt-get update` would fetch from, asked of apt itself, so that one-line and deb822 sources are understood
/// alike: lines of an origin, where it is known, and a URI.
fn index_targets(options: &[&str]) -> String {
    let format = ["indextargets", "--format", "$(ORIGIN) $(REPO_URI)"];
    output("apt-get", &[&format, options].concat()).unwrap_or_default()
}

/// Every URI once, without those known to be another distribution's, unless none is known to be Debian's: a
/// company's mirror may call itself anything, and the hash decides in the end.
///
/// Apt knows a source's origin only after an update, and leaves out the sources it does not know unless it is told to
/// say nothing of origins: hence two listings.
fn pick<'a>(everything: &'a str, identified: &str) -> Vec<&'a str> {
    let identified: Vec<_> = identified.lines().filter_map(|line| line.rsplit_once(' ')).collect();
    let has_debian = identified.iter().any(|(origin, _)| *origin == "Debian");
    let foreign = |uri: &str| {
        let mut of_this = identified.iter().filter(|(_, known)| *known == uri);
        // Apt leaves the name of a field as it is where a source does not have it.
        has_debian && of_this.any(|(origin, _)| !["Debian", "$(ORIGIN)", ""].contains(origin))
    };
    let mut uris = Vec::new();
    for uri in everything.lines().filter_map(|line| line.split_whitespace().last()) {
        if !foreign(uri) && !uris.contains(&uri) {
            uris.push(uri);
        }
    }
    uris
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
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // What apt 2.6 prints, the hosts aside.
    const EVERYTHING: &str = "$(ORIGIN) http://a.example/debian/\n$(ORIGIN) http://a.example/debian/\n\
        $(ORIGIN) http://b.example/debian-security/\n$(ORIGIN) https://c.example/node/\n\
        $(ORIGIN) https://d.example/new/\n$(ORIGIN) https://e.example/plain/\n";
    const IDENTIFIED: &str = "Debian http://a.example/debian/\n\
        Debian http://b.example/debian-security/\n. nodistro https://c.example/node/\n\
        $(ORIGIN) https://e.example/plain/\n";

    #[test]
    fn other_distributions_are_not_asked() {
        let expected = [
            "http://a.example/debian/",
            "http://b.example/debian-security/",
            "https://d.example/new/",
            "https://e.example/plain/",
        ];
        assert_eq!(pick(EVERYTHING, IDENTIFIED), expected);
    }

    #[test]
    fn before_the_first_update_every_source_may_be_debians() {
        assert_eq!(pick(EVERYTHING, "").len(), 5);
    }

    #[test]
    fn where_nothing_is_called_debian_everything_may_be_its_mirror() {
        let company = "Ours http://a.example/debian/\n";
        assert_eq!(pick(EVERYTHING, company).len(), 5);
    }
}

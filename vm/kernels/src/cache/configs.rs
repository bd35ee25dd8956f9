//! The configurations inside images that were given with `-k`, remembered.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{digest, image, whole_file};

/// Where they are in the cache.
pub const CONFIGS: &str = "configs";

/// The configuration inside an image that is not of the cache. Looking for it means decompressing the whole kernel,
/// so what was found, also nothing, is remembered by the image's hash.
pub fn config_inside(cache: &Path, image: &Path) -> Result<Option<String>> {
    remembered_config(&cache.join(CONFIGS), image)
}

fn remembered_config(dir: &Path, image: &Path) -> Result<Option<String>> {
    let hash = digest::sha256_file(image).with_context(|| format!("cannot read {}", image.display()))?;
    let known = dir.join(hash.as_str());
    if let Ok(text) = std::fs::read_to_string(&known) {
        return Ok(Some(text).filter(|text| !text.is_empty()));
    }
    let found = image::config(image)?;
    // A cache that cannot be written costs time, nothing else.
    let _ = whole_file::write(&known, found.as_deref().unwrap_or_default().as_bytes());
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::fake;

    #[test]
    fn what_is_inside_an_image_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let (configs, image) = (dir.path().join("configs"), dir.path().join("bzImage"));
        for inside in [Some("CONFIG_PCI=y\n"), None] {
            std::fs::write(&image, fake::bzimage("6.1.0", inside)).unwrap();
            assert_eq!(remembered_config(&configs, &image).unwrap().as_deref(), inside);
            let known = configs.join(digest::sha256_file(&image).unwrap().as_str());
            assert_eq!(std::fs::read_to_string(&known).unwrap(), inside.unwrap_or_default());
            std::fs::write(&known, "CONFIG_FROM=memory\n").unwrap();
            let again = remembered_config(&configs, &image).unwrap();
            assert_eq!(again.as_deref(), Some("CONFIG_FROM=memory\n"));
        }
    }

    #[test]
    fn a_cache_that_cannot_be_written_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("bzImage");
        std::fs::write(&image, fake::bzimage("6.1.0", Some("CONFIG_PCI=y\n"))).unwrap();
        // A file where the directory should be.
        let found = remembered_config(&image.join("configs"), &image).unwrap();
        assert_eq!(found.as_deref(), Some("CONFIG_PCI=y\n"));
    }
}

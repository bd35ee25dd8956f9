//! What the linker has to be told of a distribution's libelf; build.rs needs it, too.

use std::collections::BTreeSet;

use memchr::memmem;

/// What an archive of libelf may refer to and not have, and none that links it calls. `PROVIDE` yields to a definition.
///
/// - Since 0.189 it decompresses sections with zstd, where it was built so. The objects that a program embeds have no
///   compressed sections: instead of 600 kB of zstd these functions become `abort`.
/// - 0.192, which is Debian 13's, forgot two functions of its own
///   (<https://sourceware.org/bugzilla/show_bug.cgi?id=32293>). They make and free the empty tree of an object's raw
///   chunks, which is all zeroes; `pthread_self` does nothing, and every program has it.
pub fn linker_script(archive: &[u8]) -> String {
    let name = |start: usize| -> String {
        let name = archive[start..].iter().map(|byte| char::from(*byte));
        name.take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let zstd: BTreeSet<String> = memmem::find_iter(archive, "ZSTD_").map(name).collect();
    let zstd = zstd.iter().map(|name| format!("PROVIDE({name} = abort);\n"));
    let forgotten =
        ["eu_search_tree_init", "eu_search_tree_fini"].map(|name| format!("PROVIDE({name} = pthread_self);\n"));
    forgotten.into_iter().chain(zstd).collect()
}

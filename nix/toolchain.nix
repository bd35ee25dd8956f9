# What compiles the workspace: Rust, a clang for the kernel side, and what static executables are linked with.
#
# Build scripts and linker learn of the libraries through variables that they read themselves, not through those of
# nixpkgs' wrappers, so that a sandbox, a shell and an app all work the same way.
{
  lib,
  cargo,
  clippy,
  elfutils,
  glibc,
  llvmPackages,
  pkg-config,
  runCommand,
  rustc,
  rustfmt,
  writeShellScriptBin,
  zlib,
  ...
}:
let
  # nixpkgs' own wrapper adds hardening options, and there are none for BPF. This one only says where headers are:
  # clang's, and libc's, among which glibc links the kernel's.
  clang = writeShellScriptBin "clang" ''
    exec ${llvmPackages.clang-unwrapped}/bin/clang \
      -resource-dir=${llvmPackages.clang}/resource-root -idirafter ${glibc.dev}/include "$@"
  '';

  # Without zstd there is one archive less to link. Whether the tests of elfutils pass is nixpkgs' business.
  libelf = elfutils.overrideAttrs (old: {
    configureFlags = old.configureFlags ++ [ "--without-zstd" ];
    doCheck = false;
    doInstallCheck = false;
  });

  # Archives beside the shared libraries, as other distributions have them: nixpkgs keeps libc.a in a directory of
  # its own, and with that one on its path the linker would take it for build scripts too, which are dynamic.
  libraries = runCommand "libraries" { } ''
    mkdir -p $out/lib
    cd $out/lib
    for package in ${glibc} ${glibc.static} ${lib.getLib libelf} ${zlib} ${zlib.static}; do
      find $package/lib -maxdepth 1 '(' -name '*.a' -o -name '*.so*' ')' | xargs ln -sft .
    done
    ls libc.a libc.so libelf.a libelf.so libz.a libz.so
  '';
in
{
  tools = [
    cargo
    clang
    clippy
    pkg-config
    rustc
    rustfmt
  ];

  variables = {
    # Read by libbpf-sys, and by xtask when it builds for a guest.
    LIBBPF_SYS_LIBRARY_PATH = "${libraries}/lib";
    LIBBPF_SYS_EXTRA_CFLAGS = "-I${lib.getDev libelf}/include -I${lib.getDev zlib}/include";
    # Read by the C compiler when it links, for static executables without libbpf.
    LIBRARY_PATH = "${libraries}/lib";
  };
}

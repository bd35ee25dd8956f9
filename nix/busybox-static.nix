# A busybox that needs no libraries, alone: its several hundred names would hide those of coreutils on a search path.
{ pkgsStatic, runCommand, ... }:
runCommand "busybox-static" { } ''
  mkdir -p $out/bin
  ln -s ${pkgsStatic.busybox}/bin/busybox $out/bin/
''

# Usage: awk -f kconfig.awk CONFIG NEEDED...
#
# Checks a kernel's configuration against lists of what is needed: `CONFIG_X=y  # why`, or `CONFIG_X=y|m  # why`.
# Names each option that is not as it must be.

FILENAME == ARGV[1] {
  if (split($0, option, "=") == 2) set[option[1]] = option[2]
  next
}

/^CONFIG_/ {
  why = index($0, "#") ? substr($0, index($0, "#") + 1) : ""
  sub(/[ \t]*#.*/, "")
  split($0, option, "=")
  needed++
  values = split(option[2], accepted, "|")
  for (i = 1; i <= values; i++) if (set[option[1]] == accepted[i]) next
  print $0 " is needed, it is " (set[option[1]] == "" ? "not set" : set[option[1]]) ":" why
  failed = 1
}

END {
  if (!needed) {
    print "no list says what is needed"
    failed = 1
  }
  if (!failed) print needed " options are as they must be"
  exit failed
}

# Usage: awk -f kconfig.awk CONFIG NEEDED...
#
# Checks a kernel's configuration against lists of what is needed. vm/kconfig says what a line of those is. Names
# each option that is not as it must be.

FILENAME == ARGV[1] {
  if (split($0, option, "=") == 2) set[option[1]] = option[2]
  next
}

/^CONFIG_/ {
  needed++
  comment = index($0, "#")
  why = comment ? substr($0, comment + 1) : ""
  sub(/[ \t]*#.*/, "")
  split($0, option, "=")
  value = option[1] in set ? set[option[1]] : "n"
  count = split(option[2], accepted, "|")
  for (i = 1; i <= count; i++) if (value == accepted[i]) next
  print $0 " is needed, it is " value ":" why
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

# What a guest needs to be booted through virtme-ng; see kconfig for the form.

CONFIG_BLOCK=y  # mounting a root directory is inside this option (init/do_mounts.c), also when it is not on a disk; without it the kernel panics; not needed with --warm
CONFIG_BINFMT_SCRIPT=y  # virtme-ng starts the guest's command through a script
CONFIG_VIRTIO=y|m  # the guest's root directory comes through a virtio device; not needed with --warm
CONFIG_VIRTIO_PCI=y|m  # that device is on the PCI bus; not needed with --warm
CONFIG_NET_9P=y|m  # the guest's root directory is one of the host's, shared over 9p; not needed with --warm
CONFIG_NET_9P_VIRTIO=y|m  # 9p comes through a virtio device; not needed with --warm
CONFIG_9P_FS=y|m  # the guest's root directory is mounted with it; not needed with --warm

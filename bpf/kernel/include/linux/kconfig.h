/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* bcc includes this first; its own headers test this one option. */
#define CONFIG_BPF_SYSCALL 1

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* bcc carries its own, or needs nothing of it. */

# SPDX-License-Identifier: Apache-2.0
"""Orders of certificates at an ACME authority: a process of its own for each, as the
client library is large and is needed for a minute every two months."""

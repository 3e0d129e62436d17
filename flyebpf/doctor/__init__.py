# SPDX-License-Identifier: Apache-2.0
"""What ``flyebpf doctor`` looks at: named checks, each with its cause and remedy."""

// SPDX-License-Identifier: GPL-2.0
/*
 * Exports the Rust symbols of mmu_notifier_helpers to the drivers that link
 * against it: Kbuild has no way of its own to do so for a crate in a module.
 */

#include <linux/export.h>

#include "exports_generated.h"

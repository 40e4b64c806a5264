/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads for mmu_notifier_helpers: headers that the kernel crate's
 * own bindings lack. See bindgen_parameters for what is taken of them.
 */

#include <linux/hmm-dma.h>
#include <linux/hmm.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mmu_notifier.h>
#include <linux/rmap.h>
#include <linux/sched.h>

#include "mmu_notifier_helpers_trace.h"
#include "shims.h"

/*
 * Where C has the fields that we read, directly or through the kernel crate.
 * The helper crate compares: bindgen loses the alignment of structures that
 * are empty in some configurations.
 */
enum mnh_offset {
	MNH_OFFSET_TASK_MM = offsetof(struct task_struct, mm),
	MNH_OFFSET_MM_USERS = offsetof(struct mm_struct, mm_users),
	MNH_OFFSET_VMA_FLAGS = offsetof(struct vm_area_struct, vm_flags),
	MNH_OFFSET_INTERVAL_MM = offsetof(struct mmu_interval_notifier, mm),
	MNH_OFFSET_INTERVAL_SEQ = offsetof(struct mmu_interval_notifier, invalidate_seq),
	MNH_OFFSET_RANGE_EVENT = offsetof(struct mmu_notifier_range, event),
};

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the KUnit suites of mmu_notifier_helpers need of C: address spaces
 * without a process, and counters that Rust has no view of. bindgen reads this, and takes constants
 * for system calls from the headers.
 */
#ifndef MMU_NOTIFIER_HELPERS_KUNIT_SHIMS_H
#define MMU_NOTIFIER_HELPERS_KUNIT_SHIMS_H

#include <asm/unistd.h>
#include <linux/mman.h>
#include <linux/mm_types.h>
#include <linux/module.h>
#include <linux/mmu_notifier.h>
#include <linux/sched.h>
#include <linux/signal.h>

struct mm_struct *mnh_kunit_mm_alloc(void);
int mnh_kunit_use_mm(struct mm_struct *mm);
void mnh_kunit_unuse_mm(struct mm_struct *mm, struct mm_struct *parking);
int mnh_kunit_mm_users(const struct mm_struct *mm);
int mnh_kunit_mm_count(const struct mm_struct *mm);
struct file *mnh_kunit_shared_file(size_t len);
void mnh_kunit_unmap_file(struct file *file, size_t offset, size_t len);
bool mnh_kunit_range_blockable(const struct mmu_notifier_range *range);
int mnh_kunit_module_refcount(struct module *module);
bool mnh_kunit_is_asleep(const struct task_struct *task);
bool mnh_kunit_fail_nth_allocation(unsigned int nth);
struct file *mnh_kunit_device(void *session);
int mnh_kunit_start(struct file *device);

/* The ELF file in kunit_program.S. */
extern const char mnh_kunit_program[], mnh_kunit_program_end[];

/* Those of the device, in Rust. */
long mnh_kunit_ioctl(struct file *file, unsigned int command, unsigned long arg);
int mnh_kunit_release(struct inode *inode, struct file *file);

#endif /* MMU_NOTIFIER_HELPERS_KUNIT_SHIMS_H */

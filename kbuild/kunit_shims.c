// SPDX-License-Identifier: GPL-2.0

#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>

#include "kunit_shims.h"

/* An address space that no process runs in, with one user: the caller. */
struct mm_struct *mnh_kunit_mm_alloc(void)
{
	struct mm_struct *mm = mm_alloc();

	if (mm) {
		mm->task_size = TASK_SIZE;
		arch_pick_mmap_layout(mm, &current->signal->rlim[RLIMIT_STACK]);
	}
	return mm;
}

/* Refuses where kthread_use_mm() would warn. */
int mnh_kunit_use_mm(struct mm_struct *mm)
{
	if (!(current->flags & PF_KTHREAD) || current->mm)
		return -EBUSY;
	migrate_disable();
	kthread_use_mm(mm);
	return 0;
}

/*
 * A kernel thread that is done with an address space goes on borrowing it, and
 * so does what runs on the CPU after it. Borrowing another one, on the same
 * CPU, leaves the reference count of the first to those who mean it.
 */
void mnh_kunit_unuse_mm(struct mm_struct *mm, struct mm_struct *parking)
{
	kthread_unuse_mm(mm);
	kthread_use_mm(parking);
	kthread_unuse_mm(parking);
	migrate_enable();
}

int mnh_kunit_mm_users(const struct mm_struct *mm)
{
	return atomic_read(&mm->mm_users);
}

int mnh_kunit_mm_count(const struct mm_struct *mm)
{
	return atomic_read(&mm->mm_count);
}

struct file *mnh_kunit_shared_file(size_t len)
{
	return shmem_file_setup("mmu_notifier_helpers_kunit", len, EMPTY_VMA_FLAGS);
}

void mnh_kunit_unmap_file(struct file *file, size_t offset, size_t len)
{
	unmap_mapping_range(file->f_mapping, offset, len, 1);
}

bool mnh_kunit_range_blockable(const struct mmu_notifier_range *range)
{
	return mmu_notifier_range_blockable(range);
}

/* In a kernel without modules there is no such function. */
int mnh_kunit_module_refcount(struct module *module)
{
#ifdef CONFIG_MODULES
	return module_refcount(module);
#else
	return 0;
#endif
}

bool mnh_kunit_is_asleep(const struct task_struct *task)
{
	return READ_ONCE(task->__state) & TASK_UNINTERRUPTIBLE;
}

/*
 * Lets the @nth allocation of the current task fail that may not wait for
 * memory; none for 0. Whether the kernel can do that.
 */
bool mnh_kunit_fail_nth_allocation(unsigned int nth)
{
#ifdef CONFIG_FAILSLAB
	WRITE_ONCE(current->fail_nth, nth);
	return true;
#else
	return false;
#endif
}

MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");

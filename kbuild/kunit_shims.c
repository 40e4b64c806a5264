// SPDX-License-Identifier: GPL-2.0

#include <linux/anon_inodes.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/initrd.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/preempt.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/umh.h>

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

static const struct file_operations device_operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = mnh_kunit_ioctl,
	.release = mnh_kunit_release,
};

/* The device of a process under test, open. It takes the session unless it fails. */
struct file *mnh_kunit_device(void *session)
{
	return anon_inode_getfile("mmu_notifier_helpers_kunit", &device_operations, session,
				  O_RDWR);
}

/* Where the program is put: there need not be anything but the root directory. */
static const struct {
	const char *directory, *program;
} places[] = {
	{ "/run", "/run/mmu_notifier_helpers_kunit" },
	{ "/tmp", "/tmp/mmu_notifier_helpers_kunit" },
	{ "/", "/mmu_notifier_helpers_kunit" },
};

static int write_program(const char *directory, const char *program)
{
	struct path path;
	struct file *file;
	bool may_run;
	ssize_t size = mnh_kunit_program_end - mnh_kunit_program;
	ssize_t written;
	loff_t pos = 0;
	int err;

	err = kern_path(directory, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, &path);
	if (err)
		return err;
	may_run = !(path.mnt->mnt_flags & MNT_NOEXEC) &&
		  !(path.mnt->mnt_sb->s_iflags & SB_I_NOEXEC);
	path_put(&path);
	if (!may_run)
		return -EACCES;

	file = filp_open(program, O_CREAT | O_EXCL | O_WRONLY, 0700);
	if (IS_ERR(file))
		return PTR_ERR(file);
	written = kernel_write(file, mnh_kunit_program, size, &pos);
	/* What is open for writing cannot be run. */
	__fput_sync(file);
	if (written < 0)
		return written;
	return written == size ? 0 : -ENOSPC;
}

/* In the new process, which unlike the caller is in the file system of user space. */
static int furnish(struct subprocess_info *info, struct cred *new)
{
	int err = -ENOENT;
	int fd, i;

	wait_for_initramfs();
	for (i = 0; i < ARRAY_SIZE(places) && err; i++) {
		err = write_program(places[i].directory, places[i].program);
		info->path = places[i].program;
	}
	if (err)
		return err;
	info->argv[0] = (char *)info->path;

	fd = get_unused_fd_flags(0);
	if (fd < 0)
		return fd;
	fd_install(fd, get_file(info->data));
	return fd == 0 ? 0 : -EBUSY;
}

/* Starts a process under test, with the device as its descriptor 0. */
int mnh_kunit_start(struct file *device)
{
	char *argv[2] = { "" };
	char *envp[1] = {};
	struct subprocess_info *info;

	/* Without a path nothing would be started; furnish() has the last word. */
	info = call_usermodehelper_setup(places[0].program, argv, envp, GFP_KERNEL, furnish, NULL,
					 device);
	if (!info)
		return -ENOMEM;
	return call_usermodehelper_exec(info, UMH_WAIT_EXEC);
}

MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");

// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of the sample driver rust_mmu_mirror, which is loaded before each and
 * removed after it: from the file that RUST_MMU_MIRROR_KO names, or by modprobe.
 */

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "kselftest_harness.h"

#define NODE "/dev/rust-mmu-mirror"
#define MODULE "rust_mmu_mirror"

/* Returns the byte at the address that is the argument. */
#define RUST_MMU_MIRROR_LOAD _IO('|', 0x90)

static int load_byte(int fd, const void *addr)
{
	int byte = ioctl(fd, RUST_MMU_MIRROR_LOAD, addr);

	return byte < 0 ? -errno : byte;
}

static int insert_module(void)
{
	const char *path = getenv("RUST_MMU_MIRROR_KO");
	int fd, ret;

	if (!path)
		return system("modprobe " MODULE);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = syscall(SYS_finit_module, fd, "", 0) ? -errno : 0;
	close(fd);
	return ret;
}

/* Busy for as long as what the last file left behind is not freed. */
static int remove_module(void)
{
	while (syscall(SYS_delete_module, MODULE, O_NONBLOCK)) {
		if (errno != EAGAIN)
			return -errno;
		usleep(1000);
	}
	return 0;
}

FIXTURE(mirror)
{
	int fd;
	size_t page;
	/* Three pages, of which the last is not mapped. */
	unsigned char *mem;
};

FIXTURE_SETUP(mirror)
{
	self->page = sysconf(_SC_PAGESIZE);
	self->mem = mmap(NULL, 3 * self->page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, munmap(self->mem + 2 * self->page, self->page));
	memset(self->mem, 0x11, self->page);
	memset(self->mem + self->page, 0x22, self->page);

	ASSERT_EQ(0, insert_module());
	self->fd = open(NODE, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(mirror)
{
	EXPECT_EQ(0, close(self->fd));
	EXPECT_EQ(0, remove_module());
	EXPECT_EQ(-1, access(NODE, F_OK));
}

TEST_F(mirror, load)
{
	unsigned char *second = self->mem + self->page;
	int i;

	self->mem[1] = 0x33;
	self->mem[self->page - 1] = 0x44;
	/* One after the other in the one place that there is for a page. */
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(0x11, load_byte(self->fd, self->mem));
		EXPECT_EQ(0x33, load_byte(self->fd, self->mem + 1));
		EXPECT_EQ(0x44, load_byte(self->fd, second - 1));
		EXPECT_EQ(0x22, load_byte(self->fd, second));
	}
	/* The same page, so nothing has to be invalidated for the device to see it. */
	*second = 0x55;
	EXPECT_EQ(0x55, load_byte(self->fd, second));
}

TEST_F(mirror, refusals)
{
	EXPECT_EQ(-EFAULT, load_byte(self->fd, self->mem + 2 * self->page));
	EXPECT_EQ(-EINVAL, load_byte(self->fd, (void *)-1UL));
	ASSERT_EQ(0, mprotect(self->mem, self->page, PROT_NONE));
	EXPECT_EQ(-EFAULT, load_byte(self->fd, self->mem));
	EXPECT_EQ(0x22, load_byte(self->fd, self->mem + self->page));

	EXPECT_EQ(-1, ioctl(self->fd, _IO('|', 0x91), self->mem));
	EXPECT_EQ(ENOTTY, errno);
}

TEST_F(mirror, protected)
{
	EXPECT_EQ(0x11, load_byte(self->fd, self->mem));
	ASSERT_EQ(0, mprotect(self->mem, self->page, PROT_NONE));
	EXPECT_EQ(-EFAULT, load_byte(self->fd, self->mem));
}

TEST_F(mirror, unmapped)
{
	EXPECT_EQ(0x11, load_byte(self->fd, self->mem));
	ASSERT_EQ(0, munmap(self->mem, self->page));
	EXPECT_EQ(-EFAULT, load_byte(self->fd, self->mem));
}

TEST_F(mirror, remapped)
{
	EXPECT_EQ(0x11, load_byte(self->fd, self->mem));
	ASSERT_EQ(self->mem, mremap(self->mem + self->page, self->page, self->page,
				    MREMAP_MAYMOVE | MREMAP_FIXED, self->mem));
	EXPECT_EQ(0x22, load_byte(self->fd, self->mem));
}

TEST_F(mirror, discarded)
{
	EXPECT_EQ(0x11, load_byte(self->fd, self->mem));
	ASSERT_EQ(0, madvise(self->mem, self->page, MADV_DONTNEED));
	EXPECT_EQ(0, load_byte(self->fd, self->mem));
}

/* A file that is inherited is still the device of who opened it. */
TEST_F(mirror, copied_on_write)
{
	int status;
	pid_t pid;

	EXPECT_EQ(0x11, load_byte(self->fd, self->mem));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		*self->mem = 0x33;
		_exit(load_byte(self->fd, self->mem) != 0x11);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(pause());
	/* The child keeps the page that the device knows. */
	*self->mem = 0x44;
	EXPECT_EQ(0x44, load_byte(self->fd, self->mem));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
}

/* The device does not go on with an address space that is gone. */
TEST_F(mirror, opener_exited)
{
	int opened, status;
	pid_t pid;

	/* A process of its own, except that what it opens stays open. */
	pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
	ASSERT_LE(0, pid);
	if (!pid) {
		opened = open(NODE, O_RDWR);
		_exit(load_byte(opened, self->mem) == 0x11 ? opened : 0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	opened = WEXITSTATUS(status);
	ASSERT_LT(0, opened);

	EXPECT_EQ(-ESRCH, load_byte(opened, self->mem));
	EXPECT_EQ(0x11, load_byte(self->fd, self->mem));
	EXPECT_EQ(0, close(opened));
}

TEST_HARNESS_MAIN

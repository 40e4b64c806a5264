// SPDX-License-Identifier: GPL-2.0
/*
 * The paths that good days never take: allocations that fail, one after the
 * other, in everything that the driver does, and the removal of its modules.
 */
#include <sys/sendfile.h>

#include "kselftest_harness.h"
#include "gpu_mirror.h"

#define FAILSLAB	"/sys/kernel/debug/failslab/"
#define FAILPAGES	"/sys/kernel/debug/fail_page_alloc/"
#define PARAMETERS	"/sys/module/" DRIVER "/parameters/"
#define HELPERS		"mmu_notifier_helpers"

/* More allocations than any one operation makes. */
#define MANY_ALLOCATIONS 500

/* About as many as the driver makes when it is loaded. */
#define INIT_ALLOCATIONS 60

/* Kept open: to open it takes allocations. */
static int fail_nth_fd = -1;

/* Lets the nth allocation of this task from now on fail; none for 0. */
static void fail_nth(int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", n);

	if (pwrite(fail_nth_fd, text, len, 0) != len)
		die("fail-nth");
}

/* Ends the injection: how many more allocations would have succeeded. */
static int fail_nth_left(void)
{
	char text[16] = "";

	if (pread(fail_nth_fd, text, sizeof(text) - 1, 0) <= 0)
		die("fail-nth");
	fail_nth(0);
	return atoi(text);
}

static bool can_inject(void)
{
	fail_nth_fd = open("/proc/self/fail-nth", O_RDWR);
	return fail_nth_fd >= 0 && write_file(FAILSLAB "ignore-gfp-wait", "N") &&
	       write_file(FAILSLAB "verbose", "0");
}

#define NO_INJECTION "the kernel has no failslab (CONFIG_FAILSLAB, CONFIG_FAULT_INJECTION_DEBUG_FS)"

/* Whole pages fail, too. */
static bool can_inject_pages(void)
{
	return can_inject() && write_file(FAILPAGES "ignore-gfp-wait", "N") &&
	       write_file(FAILPAGES "ignore-gfp-highmem", "N") &&
	       write_file(FAILPAGES "min-order", "0") && write_file(FAILPAGES "verbose", "0");
}

static bool is_loaded(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/module/%s/refcnt", name);
	return !access(path, F_OK);
}

FIXTURE(inject)
{
	void *mem;
	void *data;
};

FIXTURE_SETUP(inject)
{
	if (!can_inject())
		SKIP(return, NO_INJECTION);
	self->mem = map(600, RW, PRIVATE);
	self->data = map(600, RW, PRIVATE);
	fill(self->mem, 600, OLD_DATA);
	fill(self->data, 600, NEW_DATA);
}

FIXTURE_TEARDOWN(inject)
{
}

TEST_F_TIMEOUT(inject, open, 120)
{
	int fd = -1;
	int n;

	for (n = 1; n < MANY_ALLOCATIONS; n++) {
		bool failed;

		fail_nth(n);
		fd = open("/dev/hmm_dmirror0", O_RDWR);
		failed = !fail_nth_left();
		if (!failed)
			break;
		/* The core may do without some allocations. */
		ASSERT_EQ(0, fd < 0 ? errno - ENOMEM : close(fd));
	}
	ASSERT_LE(0, fd);
	/* The open file, its page table, and the buffers of the core. */
	EXPECT_LT(2, n);
	EXPECT_TRUE(device_works(fd));
}

static int do_read(int fd, void *mem, void *data)
{
	return device_read(fd, mem, data, 600);
}

static int do_read_unlocked(int fd, void *mem, void *data)
{
	return device_read_unlocked(fd, mem, data, 600);
}

static int do_write(int fd, void *mem, void *data)
{
	return device_write(fd, mem, data, 600);
}

static int do_snapshot(int fd, void *mem, void *data)
{
	return device_snapshot(fd, mem, data, 600);
}

static int do_mmap(int fd, void *mem, void *data)
{
	void *pages = mmap(NULL, 8 * page_size(), RW, MAP_SHARED, fd, 0);

	if (pages == MAP_FAILED)
		return -errno;
	unmap(pages, 8);
	return 0;
}

static int (*const operations[])(int fd, void *mem, void *data) = {
	do_read, do_read_unlocked, do_write, do_snapshot, do_mmap,
};

TEST_F_TIMEOUT(inject, operations, 120)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(operations); i++) {
		bool failed = true;
		int n;

		for (n = 1; failed; n++) {
			/* A fresh mirror, so that the page table is built anew. */
			int fd = device_open(0);
			int ret;

			ASSERT_LE(0, fd);
			ASSERT_GT(MANY_ALLOCATIONS, n);
			fail_nth(n);
			ret = operations[i](fd, self->mem, self->data);
			failed = !fail_nth_left();
			/* As before, when nothing is short. */
			ASSERT_EQ(failed && ret ? -ENOMEM : 0, ret);
			ASSERT_EQ(0, operations[i](fd, self->mem, self->data));
			ASSERT_EQ(0, close(fd));
		}
		/* Each needs a buffer at the least. */
		EXPECT_LT(1, n);
	}
	/* What the device read last is what it wrote. */
	EXPECT_TRUE(holds(self->mem, 0, 600, OLD_DATA));
}

/* There is an allocation for each. */
#define MOVED_PAGES	67

static int do_exclusive(int fd, void *mem, void *data)
{
	return device_exclusive(fd, mem, data, MOVED_PAGES);
}

static int do_move(int fd, void *mem, void *data)
{
	return device_do(fd, HMM_DMIRROR_MIGRATE_TO_DEV, mem, data, MOVED_PAGES);
}

static int do_move_back(int fd, void *mem, void *data)
{
	long ret = to_system(fd, mem, MOVED_PAGES);

	return ret < 0 ? ret : 0;
}

static int do_move_over(int fd, void *mem, void *data)
{
	int ret = do_move(fd, mem, data);

	return ret ?: do_move_back(fd, mem, data);
}

static int do_release(int fd, void *mem, void *data)
{
	return device_release(fd);
}

/* A page for which there is no memory stays where it is, or the command fails. */
TEST_F_TIMEOUT(inject, migration, 180)
{
	int (*const moves[])(int fd, void *mem, void *data) = {
		do_exclusive, do_move, do_move_back, do_move_over, do_release,
	};
	int fd = device_open(0);
	unsigned int i;

	ASSERT_LE(0, fd);
	if (!can_inject_pages())
		SKIP(return, NO_INJECTION);
	/* The core warns when it has no memory to add a device's to the system. */
	ASSERT_EQ(0, to_device(fd, self->mem, self->data, MOVED_PAGES));
	for (i = 0; i < ARRAY_SIZE(moves); i++) {
		bool failed = true;
		int n, step;

		/* The first ones in turn, then samples. */
		for (n = 1, step = 1; failed; n += step) {
			bool is_there = moves[i] == do_move_back || moves[i] == do_release;
			int ret;

			ret = is_there ? to_device(fd, self->mem, self->data, MOVED_PAGES) :
					 to_system(fd, self->mem, MOVED_PAGES);
			ASSERT_LE(0, ret);
			step = n < 16 ? 1 : 23;
			fail_nth(n);
			ret = moves[i](fd, self->mem, self->data);
			failed = !fail_nth_left();
			ASSERT_TRUE(!ret || (failed && (ret == -ENOMEM || ret == -ENOENT))) {
				TH_LOG("move %u, allocation %d: %d", i, n, ret);
			}
			ASSERT_EQ(0, device_read(fd, self->mem, self->data, MOVED_PAGES));
			ASSERT_TRUE(holds(self->data, 0, MOVED_PAGES, OLD_DATA));
		}
		EXPECT_LT(1, n);
	}
	EXPECT_TRUE(holds(self->mem, 0, MOVED_PAGES, OLD_DATA));
	EXPECT_EQ(0, close(fd));
}

static int remove_module(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK) ? -errno : 0;
}

static int remove_driver(void)
{
	return module_is_released() ? remove_module(DRIVER) : -ETIMEDOUT;
}

/* A copy of a module's file in memory, so that loading it reads no other file system. */
static int module_file(const char *dir, const char *name)
{
	char path[4096];
	ssize_t n = 1;
	int from, copy, fd;

	snprintf(path, sizeof(path), "%s/%s.ko", dir, name);
	from = open(path, O_RDONLY | O_CLOEXEC);
	copy = memfd_create(name, MFD_CLOEXEC);
	if (from < 0 || copy < 0)
		die(path);
	while (n > 0)
		n = sendfile(copy, from, NULL, 1 << 20);
	if (n < 0)
		die(path);
	/* The loader refuses a file that somebody may write. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", copy);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(path);
	close(from);
	close(copy);
	return fd;
}

static int insert_module(int fd, const char *parameters)
{
	return syscall(SYS_finit_module, fd, parameters, 0) ? -errno : 0;
}

FIXTURE(module)
{
	int helpers;
	int driver;
	/* What the driver was loaded with, so that it has the same devices again. */
	char parameters[96];
};

static void read_parameters(char *parameters, size_t size)
{
	static const char *const names[] = { "spm_addr_dev0", "spm_addr_dev1" };
	char path[96], value[32] = "";
	size_t i, len = 0;

	*parameters = 0;
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		int fd;

		snprintf(path, sizeof(path), PARAMETERS "%s", names[i]);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		if (read(fd, value, sizeof(value) - 1) <= 0)
			die(path);
		close(fd);
		len += snprintf(parameters + len, size - len, "%s=%llu ", names[i],
				strtoull(value, NULL, 0));
	}
}

FIXTURE_SETUP(module)
{
	const char *dir = getenv("GPU_MIRROR_MODULES");

	self->driver = -1;
	if (!dir)
		SKIP(return, "GPU_MIRROR_MODULES does not name the directory of the modules");
	if (!is_loaded(DRIVER))
		SKIP(return, "the driver is not the module " DRIVER);
	read_parameters(self->parameters, sizeof(self->parameters));
	self->helpers = module_file(dir, HELPERS);
	self->driver = module_file(dir, DRIVER);
}

/* The next test finds the modules loaded. */
FIXTURE_TEARDOWN(module)
{
	if (self->driver < 0 || is_loaded(DRIVER))
		return;
	insert_module(self->helpers, "");
	EXPECT_EQ(0, insert_module(self->driver, self->parameters));
}

/* Again and again, each time with memory on a device until just before. */
TEST_F_TIMEOUT(module, removal, 240)
{
	void *mem = map(67, RW, PRIVATE);
	void *data = map(67, RW, PRIVATE);
	void *mapped;
	int i, fd;

	fill(mem, 67, OLD_DATA);
	for (i = 0; i < 50; i++) {
		int unit = device_exists(2) ? i % 4 : i % 2;

		fd = device_open(unit);
		ASSERT_LE(0, fd);
		ASSERT_TRUE(device_works(fd));
		ASSERT_EQ(0, to_device(fd, mem, data, 67));
		ASSERT_EQ(-EAGAIN, remove_module(DRIVER));
		ASSERT_EQ(-EAGAIN, remove_module(HELPERS));
		ASSERT_TRUE(device_works(fd));
		ASSERT_EQ(67, pages_on_device(fd, mem, 67));

		/* A mapping of the device keeps it open. */
		mapped = map_file(1, RW, MAP_SHARED, fd);
		ASSERT_EQ(0, close(fd));
		ASSERT_EQ(-EAGAIN, remove_module(DRIVER));
		ASSERT_EQ(67, memory_used(unit));
		unmap(mapped, 1);

		ASSERT_EQ(-EAGAIN, remove_module(HELPERS));
		ASSERT_EQ(0, remove_driver());
		ASSERT_EQ(-1, access("/dev/hmm_dmirror0", F_OK));
		ASSERT_EQ(-1, access("/dev/hmm_dmirror1", F_OK));
		ASSERT_EQ(-1, access("/sys/kernel/debug/" DRIVER, F_OK));
		ASSERT_EQ(0, remove_module(HELPERS));
		ASSERT_TRUE(holds(mem, 0, 67, OLD_DATA));

		ASSERT_EQ(0, insert_module(self->helpers, ""));
		ASSERT_EQ(0, insert_module(self->driver, self->parameters));
	}
	fd = device_open(0);
	ASSERT_LE(0, fd);
	EXPECT_TRUE(device_works(fd));
	EXPECT_EQ(0, close(fd));
}

/* The driver goes while a process has the last of its pages for itself. */
TEST_F(module, removal_with_exclusive_pages)
{
	void *mem = map(3, RW, PRIVATE);
	void *data = map(3, RW, PRIVATE);
	int fd = device_open(0);

	fill(mem, 3, OLD_DATA);
	ASSERT_EQ(0, device_exclusive(fd, mem, data, 3));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, remove_driver());
	EXPECT_TRUE(holds(mem, 0, 3, OLD_DATA));
}

/*
 * Initialization that fails half-way leaves nothing behind. Most allocations
 * are those of the loader; the driver's own are the last.
 */
TEST_F_TIMEOUT(module, insertion, 180)
{
	const int all = 1 << 20;
	int fd, last, n, refused = 0;

	if (!can_inject())
		SKIP(return, NO_INJECTION);

	ASSERT_EQ(0, remove_driver());
	fail_nth(all);
	ASSERT_EQ(0, insert_module(self->driver, self->parameters));
	last = all - fail_nth_left();

	for (n = last > INIT_ALLOCATIONS ? last - INIT_ALLOCATIONS : 1; n <= last; n++) {
		int ret;

		ASSERT_EQ(0, is_loaded(DRIVER) ? remove_driver() : 0);
		ASSERT_EQ(-1, access("/dev/hmm_dmirror0", F_OK));
		ASSERT_EQ(-1, access("/sys/kernel/debug/" DRIVER, F_OK));
		ASSERT_EQ(-1, access("/sys/kernel/debug/faults", F_OK));
		fail_nth(n);
		ret = insert_module(self->driver, self->parameters);
		fail_nth(0);
		/* The core may do without, and says busy when no minor can be had. */
		ASSERT_EQ(true, !ret || ret == -ENOMEM || ret == -EBUSY);
		refused += !!ret;
	}
	EXPECT_LT(0, refused);

	ASSERT_EQ(0, is_loaded(DRIVER) ? 0 : insert_module(self->driver, self->parameters));
	fd = device_open(1);
	ASSERT_LE(0, fd);
	EXPECT_TRUE(device_works(fd));
	EXPECT_EQ(0, close(fd));
}

TEST_HARNESS_MAIN

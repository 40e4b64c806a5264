// SPDX-License-Identifier: GPL-2.0
/*
 * Where the memory goes: what is on a device is the process's to pay for, it is
 * bounded, and however the process ends, all of it comes back.
 */
#include <sys/mount.h>
#include <sys/stat.h>

#include "kselftest_harness.h"
#include "gpu_mirror_memory.h"

#define ROUNDS		50
/* Rounds until the kernel's caches have grown to what they take. */
#define WARM_UP		10
/* What may be in them, more or less, at any time: each CPU keeps huge pages, too. */
#define SLACK_PAGES	2048
#define SLACK_HUGE	8

#define LIMIT_PAGES	2048
#define CGROUP_NAME	"gpu_mirror"
#define NO_CGROUP	"no memory controller in a second-version cgroup hierarchy"

static long long free_pages(void)
{
	FILE *file = fopen("/proc/vmstat", "r");
	long long pages;

	if (!file || fscanf(file, "nr_free_pages %lld", &pages) != 1)
		die("/proc/vmstat");
	fclose(file);
	return pages;
}

/* To a device and back in several ways, and away from there in others. */
static void come_and_go(struct __test_metadata *_metadata,
			const struct _fixture_variant_memory *variant, void *data, bool forks)
{
	size_t npages = variant->huge ? HUGE_PAGES : SMALL_PAGES;
	void *mem = map_memory(variant->huge);
	int fd = device_open(variant->unit);

	ASSERT_LE(0, fd);
	ASSERT_NE(NULL, mem);
	ASSERT_EQ(0, to_device(fd, mem, data, npages));
	ASSERT_EQ(0, device_write(fd, mem, data, npages));
	ASSERT_TRUE(page_holds(mem, 0, OLD_DATA));
	ASSERT_EQ(0, to_device(fd, mem, data, npages));
	ASSERT_LE(0, to_system(fd, mem, npages / 4));
	unmap(page_at(mem, npages / 2), 3);
	if (forks) {
		pid_t pid = start_child();

		if (!pid)
			_exit(!page_holds(mem, npages - 1, OLD_DATA));
		ASSERT_EQ(0, wait_child(pid));
	}
	ASSERT_EQ(0, close(fd));
	ASSERT_TRUE(holds(mem, 0, npages / 2, OLD_DATA));
	unmap(mem, npages);
}

TEST_F_TIMEOUT(memory, leaves_nothing_behind, 120)
{
	long long slack = SLACK_PAGES + (variant->huge ? SLACK_HUGE * HUGE_PAGES : 0);
	long long before = 0;
	int i;

	if (variant->huge && is_coherent(variant->unit))
		SKIP(return, "the same as with small pages");

	ASSERT_EQ(0, close(self->fd));
	self->fd = -1;
	for (i = 0; i < WARM_UP + ROUNDS; i++) {
		if (i == WARM_UP)
			before = free_pages();
		come_and_go(_metadata, variant, self->data, i % 10 == 0);
	}
	EXPECT_GE(slack, before - free_pages());
	expect_used(_metadata, variant->unit, 0);
}

/* Uses up all that the device has. What finds no room stays where it is. */
TEST_F_TIMEOUT(memory, fills_the_device, 240)
{
	const size_t beyond = 2 * HUGE_PAGES;
	struct counters device = device_counters(variant->unit);
	size_t total, page;
	int ret = 0;
	void *mem;

	if (!counters_exist(&device))
		SKIP(return, NO_COUNTERS);
	if (!variant->huge)
		SKIP(return, "it takes long with small pages");
	total = counter(&device, "memory_total");
	ASSERT_LT(0, total);
	/* The CPU has to provide what a device that is none has for memory. */
	if (!is_coherent(variant->unit) && free_pages() < (long long)total * 3 / 2)
		SKIP(return, "the machine has less memory than the device");
	mem = map_aligned(total + beyond);
	if (!is_coherent(variant->unit))
		advise(mem, total + beyond, MADV_HUGEPAGE);
	for (page = 0; !ret && page < total + beyond; page += HUGE_PAGES)
		ret = device_do(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV, page_at(mem, page),
				self->data, HUGE_PAGES);
	EXPECT_EQ(-ENOENT, ret);
	EXPECT_GE(total, counter(&device, "memory_used"));
	EXPECT_LE(total - HUGE_PAGES, counter(&device, "memory_used"));

	/* The last of them is partly there, and there is no more room. */
	page -= HUGE_PAGES;
	EXPECT_EQ(-ENOENT, device_do(self->fd, HMM_DMIRROR_MIGRATE_TO_DEV,
				     page_at(mem, total + HUGE_PAGES), self->data, 3));
	ASSERT_EQ(0, device_write(self->fd, page_at(mem, page), self->mem, HUGE_PAGES));
	EXPECT_TRUE(holds(page_at(mem, page), 0, HUGE_PAGES, OLD_DATA));
	ASSERT_EQ(0, device_read(self->fd, mem, self->data, HUGE_PAGES));
	EXPECT_TRUE(is_zero(self->data, HUGE_PAGES));

	unmap(mem, total + beyond);
	expect_used(_metadata, variant->unit, 0);
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
}

/* A group of processes that may have so much memory. */
struct group {
	char top[96];
	char dir[128];
};

static bool group_write(const char *dir, const char *file, long long value)
{
	char path[192], text[32];

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	snprintf(text, sizeof(text), "%lld", value);
	return write_file(path, text);
}

static long long group_read(const struct group *group, const char *file)
{
	char path[192];
	long long value;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", group->dir, file);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%lld", &value) != 1)
		die(path);
	fclose(f);
	return value;
}

/* Where the hierarchy is, or where we put it. */
static bool find_top(char *top, size_t size)
{
	FILE *mounts = fopen("/proc/self/mounts", "r");
	char dir[96], kind[32];
	bool found = false;

	while (mounts && !found && fscanf(mounts, "%*s %95s %31s %*[^\n]", dir, kind) == 2)
		found = !strcmp(kind, "cgroup2");
	if (mounts)
		fclose(mounts);
	snprintf(top, size, "%s", found ? dir : "/tmp/gpu_mirror_cgroup");
	if (found)
		return true;
	mkdir(top, 0700);
	return !mount("none", top, "cgroup2", 0, NULL);
}

static bool group_make(struct group *group)
{
	char path[128];

	if (!find_top(group->top, sizeof(group->top)))
		return false;
	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", group->top);
	if (!write_file(path, "+memory"))
		return false;
	snprintf(group->dir, sizeof(group->dir), "%s/" CGROUP_NAME, group->top);
	rmdir(group->dir);
	if (mkdir(group->dir, 0700))
		return false;
	group_write(group->dir, "memory.swap.max", 0);
	return group_write(group->dir, "memory.max", LIMIT_PAGES * page_size());
}

static void enter(const char *dir)
{
	if (!group_write(dir, "cgroup.procs", getpid()))
		die("cgroup.procs");
}

TEST_F(memory, is_charged_on_the_device)
{
	size_t npages = variant->huge ? 2 * HUGE_PAGES : LIMIT_PAGES / 4;
	struct group group;
	pid_t pid;

	if (!group_make(&group))
		SKIP(return, NO_CGROUP);
	pid = start_child();
	if (!pid) {
		int fd = device_open(variant->unit), i;
		void *data = map(HUGE_PAGES, RW, PRIVATE);
		void *mem = map_aligned(npages);

		ASSERT_LE(0, fd);
		if (variant->huge)
			advise(mem, npages, MADV_HUGEPAGE);
		fill(data, HUGE_PAGES, OTHER_DATA);
		enter(group.dir);
		/* Touched before in one half, untouched in the other. */
		fill(mem, npages / 2, OLD_DATA);
		for (i = 0; i < 2; i++) {
			ASSERT_EQ(0, to_device(fd, page_at(mem, i * npages / 2), data,
					       npages / 2));
		}
		ASSERT_EQ(npages, pages_on_device(fd, mem, npages));
		ASSERT_LE(npages * page_size(), group_read(&group, "memory.current"));
		unmap(mem, npages);
		ASSERT_GT(npages * page_size(), group_read(&group, "memory.current"));
		_exit(0);
	}
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_EQ(0, rmdir(group.dir));
}

/* A process that has more moved than its group may have does not get it. */
TEST_F_TIMEOUT(memory, is_limited_by_the_group, 60)
{
	const size_t npages = 2 * LIMIT_PAGES;
	struct group group;
	int status;
	pid_t pid;

	if (!group_make(&group))
		SKIP(return, NO_CGROUP);
	pid = start_child();
	if (!pid) {
		int fd = device_open(variant->unit);
		void *data = map(npages, RW, PRIVATE | MAP_POPULATE);
		void *mem = map_aligned(npages);

		ASSERT_LE(0, fd);
		if (variant->huge)
			advise(mem, npages, MADV_HUGEPAGE);
		enter(group.dir);
		_exit(!device_do(fd, HMM_DMIRROR_MIGRATE_TO_DEV, mem, data, npages));
	}
	status = wait_child(pid);
	EXPECT_TRUE(status == SIGKILL || !status) {
		TH_LOG("status %#x", status);
	}
	expect_used(_metadata, variant->unit, 0);
	EXPECT_EQ(0, rmdir(group.dir));
	/* The device is as good as before. */
	ASSERT_EQ(0, to_device(self->fd, self->mem, self->data, self->npages));
	EXPECT_TRUE(holds(self->data, 0, self->npages, OLD_DATA));
}

/* Whether a device has given back everything, at last. */
static bool is_emptied(int unit)
{
	const struct timespec pause = { .tv_nsec = 10000000 };
	int looks;

	for (looks = 0; looks < 3000; looks++) {
		if (!memory_used(unit))
			return true;
		nanosleep(&pause, NULL);
	}
	return false;
}

/*
 * A device that works for a process which the kernel has killed for want of
 * memory holds on to the address space, and the kernel takes the memory away
 * nonetheless. The grandchild has the device work, its parent eats memory, and
 * success is the gate that it opens.
 */
TEST_F_TIMEOUT(memory, is_taken_by_the_oom_reaper, 90)
{
	struct counters device = device_counters(variant->unit);
	struct gate good = gate();
	struct group group;
	struct trap trap;
	pid_t pid;

	if (!counters_exist(&device))
		SKIP(return, NO_COUNTERS);
	if (!trap_set(&trap, map(1, RW, PRIVATE), 1))
		SKIP(return, NO_USERFAULTFD);
	if (!group_make(&group))
		SKIP(return, NO_CGROUP);
	pid = start_child();
	if (!pid) {
		struct gate trapped = gate(), ended = gate();
		struct command c = {
			.fd = device_open(variant->unit),
			.request = HMM_DMIRROR_READ,
			.addr = map(1, RW, PRIVATE),
			.ptr = map(1, RW, PRIVATE),
			.npages = 1,
		};
		void *mem;
		int ret;

		enter(group.dir);
		mem = map_memory(variant->huge);
		ASSERT_NE(NULL, mem);
		ASSERT_EQ(0, to_device(c.fd, mem, self->data, self->npages));
		advise(mem, self->npages, MADV_DONTFORK);
		ASSERT_TRUE(trap_set(&trap, c.addr, 1));
		if (start_child()) {
			close(good.in);
			ASSERT_TRUE(gate_wait(&trapped));
			map(2 * LIMIT_PAGES, RW, PRIVATE | MAP_POPULATE);
			_exit(1);
		}
		enter(group.top);
		start_into_trap(&c, &trap);
		ASSERT_LE(self->npages, memory_used(variant->unit));
		gate_open(&trapped);
		/* Open until the parent is gone. */
		ASSERT_FALSE(gate_wait(&ended));
		ASSERT_TRUE(is_emptied(variant->unit));
		ASSERT_EQ(-EFAULT, device_read(c.fd, mem, self->data, self->npages));

		/* The fault finds no memory to go on with. */
		close(trap.uffd);
		ret = command_end(&c);
		ASSERT_EQ(-EFAULT, ret);
		ASSERT_EQ(-EINVAL, device_do(c.fd, HMM_DMIRROR_SNAPSHOT, mem, self->data, 1));
		ASSERT_EQ(-EINVAL, to_device(c.fd, mem, self->data, self->npages));
		gate_open(&good);
		_exit(0);
	}
	EXPECT_TRUE(gate_wait(&good));
	EXPECT_EQ(SIGKILL, wait_child(pid));
	EXPECT_EQ(0, rmdir(group.dir));
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/*
 * The GPU mirror gets on with its work: under a storm on the pages that it
 * wants, beside a storm on others, and, when it holds off everybody else for it,
 * without ever waiting for user space meanwhile.
 */
#include <signal.h>

#include "kselftest_harness.h"
#include "gpu_mirror.h"
#include "gpu_mirror_chase.h"

#define NPAGES		LEAF_PAGES

#define QUIET_PAGES	32
#define ROUNDS		50
#define STORM_ROUNDS	4
/* Of those that the storm is on. All of them at once are there too rarely to wait for. */
#define STORM_PAGES	32
#define TIMEOUT		120

/* For what takes no time unless it waits for a lock that is not given back. */
#define PROMPTLY	20000

FIXTURE(progress)
{
	int fd;
	struct counters device;
	struct counters mirror;
};

FIXTURE_SETUP(progress)
{
	self->fd = -1;
	self->device = device_counters(0);
	if (!counters_exist(&self->device))
		SKIP(return, NO_COUNTERS);
	self->fd = device_open(0);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(1, count_mirrors(0, getpid(), &self->mirror));
}

FIXTURE_TEARDOWN(progress)
{
	EXPECT_EQ(0, self->fd < 0 ? 0 : close(self->fd));
}

/* What takes the locks of the address space, and of the memory that is read. */
static void use_memory(struct chase *chase)
{
	void *mem = map(3, RW, PRIVATE);
	pid_t pid;

	fill(mem, 3, NEW_DATA);
	protect(page_at(mem, 1), 1, PROT_READ);
	unmap(page_at(mem, 2), 1);
	if (!holds(mem, 0, 2, NEW_DATA))
		die("memory that nobody else uses");

	fill(page_at(chase->mem, 1), 2, NEW_DATA);
	protect(page_at(chase->mem, 2), 1, PROT_READ);
	map_at(page_at(chase->mem, 3), 1, RW);
	advise(page_at(chase->mem, 4), 1, MADV_DONTNEED);

	pid = start_child();
	if (!pid)
		_exit(0);
	wait_child(pid);
}

static bool ends_promptly(pid_t pid)
{
	struct pollfd end = { .fd = syscall(__NR_pidfd_open, pid, 0), .events = POLLIN };

	if (end.fd < 0)
		die("pidfd_open");
	return poll(&end, 1, PROMPTLY) == 1;
}

/*
 * The slow path, stuck in a page fault that nobody answers, is in nobody's way
 * and ends with its process.
 */
TEST_F_TIMEOUT(progress, slow_path_waits_for_user_space_without_locks, TIMEOUT)
{
	struct gate stuck = gate(), used = gate();
	pid_t pid = start_child();

	if (!pid) {
		struct chase chase;

		if (!chase_start(&chase) || !chase_into_slow_path(&chase, 1))
			_exit(1);
		gate_open(&stuck);
		use_memory(&chase);
		gate_open(&used);
		pause();
	}
	ASSERT_TRUE(gate_wait(&stuck));
	EXPECT_TRUE(gate_wait_for(&used, PROMPTLY));
	kill(pid, SIGKILL);
	ASSERT_TRUE(ends_promptly(pid));
	EXPECT_EQ(SIGKILL, wait_child(pid));
	EXPECT_EQ(0, count_mirrors(0, pid, NULL));
	EXPECT_TRUE(device_works(self->fd));
	EXPECT_EQ(0, close(self->fd));
	self->fd = -1;
	EXPECT_TRUE(module_is_released());
}

/*
 * A page that went away after it was faulted in is not waited for with the locks
 * held: the device lets go of them first, and waits in the trap again.
 */
TEST_F_TIMEOUT(progress, slow_path_only_looks_with_locks_held, TIMEOUT)
{
	struct chase chase;

	if (!chase_start(&chase))
		SKIP(return, NO_USERFAULTFD);
	ASSERT_TRUE(chase_into_slow_path(&chase, 2));
	use_memory(&chase);

	__atomic_store_n(&chase.over, true, __ATOMIC_SEQ_CST);
	trap_release(&chase.trap, OTHER_DATA);
	pthread_join(chase.thread, NULL);
	EXPECT_EQ(0, chase.ret);
	EXPECT_TRUE(page_holds(chase.data, 0, OTHER_DATA));
	EXPECT_TRUE(page_holds(page_at(chase.data, 1), 0, NEW_DATA));
	EXPECT_EQ(0, close(chase.fd));
}

/* Somebody who changes page tables, of pages that keep their contents. */
struct hammer {
	void (*strike)(void *mem);
	void *mem;
	unsigned int strikes;
	bool over;
	pthread_t thread;
};

static void *hammer_run(void *arg)
{
	struct hammer *hammer = arg;

	while (!__atomic_load_n(&hammer->over, __ATOMIC_SEQ_CST)) {
		hammer->strike(hammer->mem);
		__atomic_add_fetch(&hammer->strikes, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void hammer_start(struct hammer *hammer, void (*strike)(void *mem), void *mem)
{
	*hammer = (struct hammer) { .strike = strike, .mem = mem };
	hammer->thread = start_thread(hammer_run, hammer);
}

static unsigned int hammer_strikes(struct hammer *hammer)
{
	return __atomic_load_n(&hammer->strikes, __ATOMIC_SEQ_CST);
}

static void hammer_end(struct hammer *hammer)
{
	__atomic_store_n(&hammer->over, true, __ATOMIC_SEQ_CST);
	pthread_join(hammer->thread, NULL);
}

static void drop_pages(void *mem)
{
	advise(mem, NPAGES, MADV_DONTNEED);
}

/* Neither keeps the device from reading or writing. */
static void toggle_executable(void *mem)
{
	protect(mem, NPAGES, RW | PROT_EXEC);
	protect(mem, NPAGES, RW);
}

static void map_anew(void *mem)
{
	map_at(mem, NPAGES, RW);
	*(char *)mem = 1;
}

/* However busy others are with the very pages, each command gets done. */
TEST_F_TIMEOUT(progress, never_gives_up_under_a_storm, TIMEOUT)
{
	const char *const names[] = { "faults", "pages", "retries", "slow_paths", "refusals" };
	__u64 before[ARRAY_SIZE(names)];
	int file = tmpfs_file(NPAGES);
	void *mem = map_file(NPAGES, RW, MAP_SHARED, file);
	void *view = map_file(NPAGES, RW, MAP_SHARED, file);
	void *data = map(NPAGES, RW, PRIVATE);
	struct hammer hammers[3];
	__u64 tag = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		before[i] = counter(&self->device, names[i]);
	hammer_start(&hammers[0], drop_pages, mem);
	hammer_start(&hammers[1], drop_pages, mem);
	hammer_start(&hammers[2], toggle_executable, mem);
	do {
		fill(view, STORM_PAGES, ++tag);
		ASSERT_EQ(0, device_read(self->fd, mem, data, STORM_PAGES));
		ASSERT_TRUE(holds(data, 0, STORM_PAGES, tag));
		fill(data, STORM_PAGES, ++tag);
		ASSERT_EQ(0, device_write(self->fd, mem, data, STORM_PAGES));
		ASSERT_TRUE(holds(view, 0, STORM_PAGES, tag));
	} while (tag < 2 * STORM_ROUNDS || !counter(&self->mirror, "slow_paths"));
	for (i = 0; i < ARRAY_SIZE(hammers); i++)
		hammer_end(&hammers[i]);

	EXPECT_LT(0, counter(&self->mirror, "retries"));
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		EXPECT_EQ(counter(&self->mirror, names[i]),
			  counter(&self->device, names[i]) - before[i]) {
			TH_LOG("%s", names[i]);
		}
	}
	EXPECT_EQ(0, counter(&self->mirror, "refusals"));
}

/* What happens to other pages makes the device read nothing again. */
TEST_F_TIMEOUT(progress, is_not_disturbed_beside_a_storm, TIMEOUT)
{
	void *mem = map(QUIET_PAGES, RW, PRIVATE);
	void *data = map(QUIET_PAGES, RW, PRIVATE);
	struct hammer hammers[3];
	unsigned int rounds = 0, strikes;
	size_t i;

	hammer_start(&hammers[0], drop_pages, map(NPAGES, RW, PRIVATE));
	hammer_start(&hammers[1], toggle_executable, map(NPAGES, RW, PRIVATE));
	hammer_start(&hammers[2], map_anew, map(NPAGES, RW, PRIVATE));
	do {
		fill(mem, QUIET_PAGES / 2, ++rounds);
		advise(page_at(mem, QUIET_PAGES / 2), QUIET_PAGES / 2, MADV_DONTNEED);
		ASSERT_EQ(0, device_read(self->fd, mem, data, QUIET_PAGES));
		ASSERT_TRUE(holds(data, 0, QUIET_PAGES / 2, rounds));
		ASSERT_TRUE(is_zero(page_at(data, QUIET_PAGES / 2), QUIET_PAGES / 2));
		for (i = 0, strikes = -1; i < ARRAY_SIZE(hammers); i++)
			if (hammer_strikes(&hammers[i]) < strikes)
				strikes = hammer_strikes(&hammers[i]);
	} while (rounds < ROUNDS || strikes < ROUNDS);
	for (i = 0; i < ARRAY_SIZE(hammers); i++)
		hammer_end(&hammers[i]);

	EXPECT_LE(ROUNDS, counter(&self->mirror, "faults"));
	EXPECT_EQ(0, counter(&self->mirror, "retries"));
	EXPECT_EQ(0, counter(&self->mirror, "slow_paths"));
}

TEST_HARNESS_MAIN

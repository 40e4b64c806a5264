// SPDX-License-Identifier: GPL-2.0
/*
 * The GPU mirror gets on with its work: under a storm on the pages that it
 * wants, beside a storm on others, and, when it holds off everybody else for it,
 * without ever waiting for user space meanwhile.
 */
#include <sched.h>
#include <signal.h>

#include "kselftest_harness.h"
#include "gpu_mirror.h"

/* As many as the driver faults in at once, aligned. */
#define NPAGES		512

#define QUIET_PAGES	32
#define ROUNDS		50
#define STORM_ROUNDS	4
/* Of those that the storm is on. All of them at once are there too rarely to wait for. */
#define STORM_PAGES	32
#define LAPS		1000
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

/* Pages that one leaf of the device's page table maps. */
static void *map_leaf(void)
{
	uintptr_t size = NPAGES * page_size();
	uintptr_t mem = (uintptr_t)map(2 * NPAGES, RW, PRIVATE);

	return (void *)((mem + size - 1) & -size);
}

/*
 * A device that reads the same pages over and over, and is led into the slow
 * path: its first page is in a trap.
 *
 * A read that has to fault stops in the trap, and holds no lock there. Now
 * - the other pages are taken away, an invalidation of what is being read: this
 *   try is bound to collide. It is told only once it wants to publish, since the
 *   core begins to look anew after a fault that slept;
 * - the page in the trap is provided, so that the read goes on: past that page,
 *   and on to the others, which it has to fault in one by one;
 * - when the first of them is there, the page in the trap is taken away again, and
 *   hundreds are still to be faulted in: who does that has the same CPU as the
 *   read, which he preempts whenever he wants to look.
 * So the try collides, and the next one stops in the trap again. Should the device
 * be faster after all, it reads everything, and its next read stops in the trap.
 */
struct chase {
	int fd;
	struct counters mirror;
	struct trap trap;
	void *mem;
	void *data;
	unsigned int reads;
	bool over;
	int ret;
	pthread_t thread;
};

static unsigned int chase_reads(struct chase *chase)
{
	return __atomic_load_n(&chase->reads, __ATOMIC_SEQ_CST);
}

static void *chase_run(void *arg)
{
	struct chase *chase = arg;

	do {
		__atomic_add_fetch(&chase->reads, 1, __ATOMIC_SEQ_CST);
		chase->ret = device_read(chase->fd, chase->mem, chase->data, NPAGES);
		/* On a slow machine the laps of one read may take all its time. */
		if (chase->ret && chase->ret != -EBUSY) {
			errno = -chase->ret;
			die("a read that is chased");
		}
	} while (!__atomic_load_n(&chase->over, __ATOMIC_SEQ_CST));
	return NULL;
}

static void schedule_as(int policy, int priority)
{
	const struct sched_param param = { .sched_priority = priority };

	if (sched_setscheduler(0, policy, &param))
		die("sched_setscheduler");
}

static bool chase_start(struct chase *chase)
{
	cpu_set_t cpu;

	*chase = (struct chase) {
		.fd = device_open(0),
		.mem = map_leaf(),
		.data = map(NPAGES, RW, PRIVATE),
	};
	if (!trap_set(&chase->trap, chase->mem, 1))
		return false;
	if (count_mirrors(0, getpid(), &chase->mirror) < 1)
		die("counters of a mirror");
	CPU_ZERO(&cpu);
	CPU_SET(sched_getcpu(), &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu))
		die("sched_setaffinity");
	chase->thread = start_thread(chase_run, chase);
	return true;
}

static bool is_present(void *page)
{
	unsigned char present;

	if (mincore(page, page_size(), &present))
		die("mincore");
	return present & 1;
}

/* Lets the device out of the trap, into a collision, and to where the trap was. */
static void chase_on(struct chase *chase)
{
	const struct timespec pause = { .tv_nsec = 20000 };
	void *others = page_at(chase->mem, 1);

	advise(others, NPAGES - 1, MADV_DONTNEED);
	trap_release(&chase->trap, OLD_DATA);
	while (!is_present(others))
		nanosleep(&pause, NULL);
	advise(chase->mem, 1, MADV_DONTNEED);
}

/*
 * Returns when the device is in the trap in the slow path, which one and the
 * same read has entered for the @nth time; false if it never is.
 */
static bool chase_into_slow_path(struct chase *chase, int nth)
{
	__u64 before = 0, last = 0;
	unsigned int read = 0;
	bool led = false;
	int lap;

	schedule_as(SCHED_FIFO, 1);
	for (lap = 0; !led && lap < LAPS; lap++) {
		__u64 slow_paths;

		trap_wait(&chase->trap);
		slow_paths = counter(&chase->mirror, "slow_paths");
		if (read != chase_reads(chase)) {
			read = chase_reads(chase);
			before = slow_paths;
		}
		led = slow_paths > last && slow_paths - before >= nth;
		last = slow_paths;
		if (!led)
			chase_on(chase);
	}
	schedule_as(SCHED_OTHER, 0);
	return led;
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

// SPDX-License-Identifier: GPL-2.0
/*
 * The GPU mirror while memory changes under it: one thread has the device read
 * or write in a loop, another one remaps, protects, frees, moves or forks the
 * same pages. Every page that the device delivers is checked against what may
 * have been there at the time.
 */
#include "kselftest_harness.h"
#include "gpu_mirror.h"

#define NPAGES		24
#define CHANGES		200
#define SLOW_CHANGES	30
#define ROUNDS		20
#define STORM_TIMEOUT	120

FIXTURE(storm)
{
	int fd;
};

FIXTURE_VARIANT(storm)
{
	int unit;
};

FIXTURE_VARIANT_ADD(storm, dmirror0)
{
	.unit = 0,
};

FIXTURE_VARIANT_ADD(storm, dmirror1)
{
	.unit = 1,
};

FIXTURE_SETUP(storm)
{
	self->fd = device_open(variant->unit);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(storm)
{
	EXPECT_EQ(0, close(self->fd));
}

/*
 * The memory under the storm. Its contents are numbered generations: @started
 * is the newest that may be seen, @finished the oldest that still may.
 */
struct storm {
	void *mem;
	void *spare;
	void (*change)(struct storm *storm);
	unsigned int changes;
	unsigned int rounds;
	bool over;
	__u64 started;
	__u64 finished;
	pthread_t thread;
};

/* Both sides get their share, however unevenly the machine runs them. */
static void *storm_run(void *arg)
{
	struct storm *storm = arg;
	unsigned int i = 0;

	while (i++ < storm->changes || __atomic_load_n(&storm->rounds, __ATOMIC_SEQ_CST) < ROUNDS)
		storm->change(storm);
	__atomic_store_n(&storm->over, true, __ATOMIC_SEQ_CST);
	return NULL;
}

static void storm_start(struct storm *storm, void (*change)(struct storm *storm),
			unsigned int changes)
{
	void *around = map(2 * NPAGES + 3, RW, PRIVATE);

	/* With neighbours, lest a new thread's stack grows into a gap. */
	storm->mem = page_at(around, 1);
	storm->spare = page_at(around, NPAGES + 2);
	storm->started = 1;
	storm->finished = 1;
	fill(storm->mem, NPAGES, 1);
	storm->change = change;
	storm->changes = changes;
	change(storm);
	storm->thread = start_thread(storm_run, storm);
}

static bool storm_goes_on(struct storm *storm)
{
	__atomic_add_fetch(&storm->rounds, 1, __ATOMIC_SEQ_CST);
	return !__atomic_load_n(&storm->over, __ATOMIC_SEQ_CST);
}

static void storm_end(struct storm *storm)
{
	pthread_join(storm->thread, NULL);
}

/* The generation of a page, all of which is of one; 0 if it is a mixture. */
static __u64 generation(const void *mem, size_t page)
{
	__u64 tag = *(__u64 *)page_at(mem, page) >> 40;

	return page_holds(mem, page, tag) ? tag : 0;
}

/* A device that keeps colliding may give up; that is no wrong answer. */
static bool gave_up(int ret)
{
	return ret == -EBUSY;
}

static void toggle_read_only(struct storm *storm)
{
	protect(storm->mem, NPAGES, PROT_READ);
	protect(storm->mem, NPAGES, RW);
}

TEST_F_TIMEOUT(storm, read_while_protected, STORM_TIMEOUT)
{
	void *data = map(NPAGES, RW, PRIVATE);
	struct storm storm = { 0 };
	int ret;

	storm_start(&storm, toggle_read_only, CHANGES);
	do {
		memset(data, 0, NPAGES * page_size());
		ret = device_read(self->fd, storm.mem, data, NPAGES);
		ASSERT_TRUE(!ret || gave_up(ret));
		ASSERT_TRUE(ret || holds(data, 0, NPAGES, 1));
	} while (storm_goes_on(&storm));
	storm_end(&storm);
	ASSERT_EQ(0, device_read(self->fd, storm.mem, data, NPAGES));
	EXPECT_TRUE(holds(data, 0, NPAGES, 1));
}

TEST_F_TIMEOUT(storm, write_while_protected, STORM_TIMEOUT)
{
	void *data = map(NPAGES, RW, PRIVATE);
	struct storm storm = { 0 };
	__u64 last[NPAGES] = { 0 }, tag = 1;
	size_t i;
	int ret;

	storm_start(&storm, toggle_read_only, CHANGES);
	do {
		fill(data, NPAGES, ++tag);
		ret = device_write(self->fd, storm.mem, data, NPAGES);
		ASSERT_TRUE(!ret || ret == -EPERM || gave_up(ret));
		for (i = 0; i < NPAGES; i++) {
			__u64 now = generation(storm.mem, i);

			ASSERT_TRUE(now == tag || (ret && now == (last[i] ?: 1)));
			last[i] = now;
		}
	} while (storm_goes_on(&storm));
	storm_end(&storm);
	protect(storm.mem, NPAGES, PROT_READ);
	EXPECT_EQ(-EPERM, device_write(self->fd, storm.mem, data, NPAGES));
}

static void toggle_inaccessible(struct storm *storm)
{
	protect(storm->mem, NPAGES, PROT_NONE);
	protect(storm->mem, NPAGES, RW);
}

TEST_F_TIMEOUT(storm, read_while_inaccessible, STORM_TIMEOUT)
{
	void *data = map(NPAGES, RW, PRIVATE);
	struct storm storm = { 0 };
	int ret;

	storm_start(&storm, toggle_inaccessible, CHANGES);
	do {
		fill(data, NPAGES, 2);
		ret = device_read(self->fd, storm.mem, data, NPAGES);
		ASSERT_TRUE(!ret || ret == -EFAULT || gave_up(ret));
		ASSERT_TRUE(ret ? holds_either(data, 0, NPAGES, 1, 2) :
				  holds(data, 0, NPAGES, 1));
	} while (storm_goes_on(&storm));
	storm_end(&storm);
	protect(storm.mem, NPAGES, PROT_NONE);
	EXPECT_EQ(-EFAULT, device_read(self->fd, storm.mem, data, NPAGES));
}

/* The next generation takes the place of the last one in one step. */
static void replace(struct storm *storm)
{
	__u64 next = storm->started + 1;

	fill(storm->spare, NPAGES, next);
	store(&storm->started, next);
	move(storm->spare, NPAGES, storm->mem);
	store(&storm->finished, next);
	map_at(storm->spare, NPAGES, RW);
}

TEST_F_TIMEOUT(storm, read_while_replaced, STORM_TIMEOUT)
{
	void *data = map(NPAGES, RW, PRIVATE);
	struct storm storm = { 0 };
	size_t i;
	int ret;

	storm_start(&storm, replace, CHANGES);
	do {
		__u64 oldest = load(&storm.finished), newest;

		ret = device_read(self->fd, storm.mem, data, NPAGES);
		newest = load(&storm.started);
		ASSERT_TRUE(!ret || gave_up(ret));
		for (i = 0; !ret && i < NPAGES; i++) {
			ASSERT_LE(oldest, generation(data, i));
			ASSERT_GE(newest, generation(data, i));
		}
	} while (storm_goes_on(&storm));
	storm_end(&storm);
	ASSERT_EQ(0, device_read(self->fd, storm.mem, data, NPAGES));
	EXPECT_TRUE(holds(data, 0, NPAGES, storm.started));
}

/*
 * A fault that waits for the mmap lock gets it between the two calls, and so
 * would hardly ever find memory if they were all that happens.
 */
static void unmap_and_map(struct storm *storm)
{
	if (storm->started++ % 2)
		unmap(storm->mem, NPAGES);
	map_at(storm->mem, NPAGES, RW);
}

/* Pages that nobody but the device writes: they are its own data or fresh. */
TEST_F_TIMEOUT(storm, write_while_unmapped, STORM_TIMEOUT)
{
	void *data = map(NPAGES, RW, PRIVATE);
	void *bystander = map(NPAGES, RW, PRIVATE);
	struct storm storm = { 0 };
	size_t i;
	int ret;

	fill(data, NPAGES, 2);
	fill(bystander, NPAGES, 3);
	storm_start(&storm, unmap_and_map, CHANGES);
	do {
		ret = device_write(self->fd, storm.mem, data, NPAGES);
		ASSERT_TRUE(!ret || ret == -EFAULT || gave_up(ret));
	} while (storm_goes_on(&storm));
	storm_end(&storm);
	for (i = 0; i < NPAGES; i++)
		ASSERT_TRUE(page_holds(storm.mem, i, 2) || is_zero(page_at(storm.mem, i), 1));
	ASSERT_EQ(0, device_write(self->fd, storm.mem, data, NPAGES));
	EXPECT_TRUE(holds(storm.mem, 0, NPAGES, 2));
	/* A write through a stale entry would have hit whoever got the page. */
	EXPECT_TRUE(holds(bystander, 0, NPAGES, 3));
	EXPECT_TRUE(is_zero(map(8 * NPAGES, RW, PRIVATE | MAP_POPULATE), 8 * NPAGES));
}

/* Frees every page and writes it anew: words of one page may differ in age. */
static void free_and_fill(struct storm *storm)
{
	__u64 next = storm->started + 1;

	store(&storm->started, next);
	advise(storm->mem, NPAGES, MADV_DONTNEED);
	fill(storm->mem, NPAGES, next);
	store(&storm->finished, next);
}

/*
 * Whether each byte is of one of the generations, or zero. The device may copy
 * byte by byte while the CPU writes a word.
 */
static bool is_torn(__u64 found, __u64 oldest, __u64 newest, size_t page, size_t word)
{
	unsigned int shift;
	__u64 tag;

	for (shift = 0; shift < 64; shift += 8) {
		__u64 byte = found >> shift & 0xff;

		for (tag = oldest; tag <= newest; tag++) {
			if (byte == (word_of(tag, page, word) >> shift & 0xff))
				break;
		}
		if (tag > newest && byte)
			return false;
	}
	return true;
}

static bool fits_generations(const __u64 *data, __u64 oldest, __u64 newest)
{
	size_t words = page_size() / sizeof(*data), i;

	for (i = 0; i < NPAGES * words; i++) {
		__u64 tag = data[i] >> 40;

		/* Zero while the newest has begun and not reached this word. */
		if (!data[i] && newest > oldest)
			continue;
		if (tag >= oldest && tag <= newest &&
		    data[i] == word_of(tag, i / words, i % words))
			continue;
		if (newest == oldest ||
		    !is_torn(data[i], oldest, newest, i / words, i % words))
			return false;
	}
	return true;
}

TEST_F_TIMEOUT(storm, read_while_freed, STORM_TIMEOUT)
{
	void *data = map(NPAGES, RW, PRIVATE);
	struct storm storm = { 0 };
	int ret;

	storm_start(&storm, free_and_fill, CHANGES);
	do {
		__u64 oldest = load(&storm.finished), newest;

		ret = device_read(self->fd, storm.mem, data, NPAGES);
		newest = load(&storm.started);
		ASSERT_TRUE(!ret || gave_up(ret));
		ASSERT_TRUE(ret || fits_generations(data, oldest, newest));
	} while (storm_goes_on(&storm));
	storm_end(&storm);
}

static void move_away_and_back(struct storm *storm)
{
	move(storm->mem, NPAGES, storm->spare);
	move(storm->spare, NPAGES, storm->mem);
}

TEST_F_TIMEOUT(storm, read_while_moved, STORM_TIMEOUT)
{
	void *data = map(NPAGES, RW, PRIVATE);
	struct storm storm = { 0 };
	bool away = false;
	int ret;

	storm_start(&storm, move_away_and_back, CHANGES);
	do {
		away = !away;
		fill(data, NPAGES, 2);
		ret = device_read(self->fd, away ? storm.spare : storm.mem, data, NPAGES);
		ASSERT_TRUE(!ret || ret == -EFAULT || gave_up(ret));
		ASSERT_TRUE(ret ? holds_either(data, 0, NPAGES, 1, 2) :
				  holds(data, 0, NPAGES, 1));
	} while (storm_goes_on(&storm));
	storm_end(&storm);
	ASSERT_EQ(0, device_read(self->fd, storm.mem, data, NPAGES));
	EXPECT_TRUE(holds(data, 0, NPAGES, 1));
	EXPECT_EQ(-EFAULT, device_read(self->fd, storm.spare, data, NPAGES));
}

/*
 * The device writes while children are forked. A child's memory is what the
 * parent's was at the fork, of whichever generation, and stays that.
 */
TEST_F_TIMEOUT(storm, write_while_forked, STORM_TIMEOUT)
{
	void *mem = map(NPAGES, RW, PRIVATE);
	void *data = map(NPAGES, RW, PRIVATE);
	void *copy = map(NPAGES, RW, PRIVATE);
	int child;

	ASSERT_TRUE(is_zero(mem, NPAGES));
	for (child = 0; child < ROUNDS; child++) {
		struct command c = { self->fd, HMM_DMIRROR_WRITE, mem, data, NPAGES };
		struct gate looked = gate(), written = gate();
		__u64 before = 2 * child + 1, during = before + 1;
		pid_t pid;

		fill(data, NPAGES, before);
		ASSERT_EQ(0, device_write(self->fd, mem, data, NPAGES));
		fill(data, NPAGES, during);
		command_start(&c);
		pid = start_child();
		if (!pid) {
			memcpy(copy, mem, NPAGES * page_size());
			gate_open(&looked);
			if (!gate_wait(&written))
				_exit(1);
			if (!holds_either(copy, 0, NPAGES, before, during))
				_exit(2);
			if (memcmp(copy, mem, NPAGES * page_size()))
				_exit(3);
			_exit(0);
		}
		ASSERT_EQ(0, command_end(&c));
		ASSERT_TRUE(holds(mem, 0, NPAGES, during));
		ASSERT_TRUE(gate_wait(&looked));
		fill(data, NPAGES, during + 1);
		ASSERT_EQ(0, device_write(self->fd, mem, data, NPAGES));
		ASSERT_TRUE(holds(mem, 0, NPAGES, during + 1));
		gate_open(&written);
		ASSERT_EQ(0, wait_child(pid));
		close(looked.out);
		close(written.in);
		close(written.out);
	}
}

static void fork_child(struct storm *storm)
{
	pid_t pid = start_child();

	if (!pid)
		_exit(0);
	wait_child(pid);
}

TEST_F_TIMEOUT(storm, read_while_written_and_forked, STORM_TIMEOUT)
{
	void *data = map(NPAGES, RW, PRIVATE);
	struct storm storm = { 0 };
	__u64 tag = 2;

	storm_start(&storm, fork_child, SLOW_CHANGES);
	do {
		/* Each fork protects the pages, so each write copies them. */
		fill(storm.mem, NPAGES, tag);
		ASSERT_EQ(0, device_read(self->fd, storm.mem, data, NPAGES));
		ASSERT_TRUE(holds(data, 0, NPAGES, tag));
		fill(data, NPAGES, ++tag);
		ASSERT_EQ(0, device_write(self->fd, storm.mem, data, NPAGES));
		ASSERT_TRUE(holds(storm.mem, 0, NPAGES, tag));
		tag++;
	} while (storm_goes_on(&storm));
	storm_end(&storm);
}

static void disturb_neighbours(struct storm *storm)
{
	map_at(storm->spare, NPAGES, RW);
	fill(storm->spare, 2, 7);
}

/* What happens to other memory of the process delays nothing here for good. */
TEST_F_TIMEOUT(storm, works_beside_a_storm, STORM_TIMEOUT)
{
	void *data = map(NPAGES, RW, PRIVATE);
	void *mem = map(NPAGES, RW, PRIVATE);
	struct storm storm = { 0 };
	__u64 tag = 1;

	storm_start(&storm, disturb_neighbours, CHANGES);
	do {
		fill(data, NPAGES, ++tag);
		advise(mem, NPAGES, MADV_DONTNEED);
		ASSERT_EQ(0, device_write(self->fd, mem, data, NPAGES));
		ASSERT_TRUE(holds(mem, 0, NPAGES, tag));
	} while (storm_goes_on(&storm));
	storm_end(&storm);
}

static void open_and_close(struct storm *storm)
{
	void *data = map(1, RW, PRIVATE);
	int fd = device_open(0);

	if (fd < 0 || device_read(fd, storm->mem, data, 1) || close(fd))
		die("a second descriptor");
	unmap(data, 1);
}

TEST_F_TIMEOUT(storm, other_descriptors_come_and_go, STORM_TIMEOUT)
{
	void *data = map(NPAGES, RW, PRIVATE);
	struct storm storm = { 0 };

	storm_start(&storm, open_and_close, SLOW_CHANGES);
	do {
		advise(data, NPAGES, MADV_DONTNEED);
		ASSERT_EQ(0, device_read(self->fd, storm.mem, data, NPAGES));
		ASSERT_TRUE(holds(data, 0, NPAGES, 1));
	} while (storm_goes_on(&storm));
	storm_end(&storm);
}

/* Threads that have a device each work on a part of their own. */
struct worker {
	int fd;
	__u64 tag;
	bool failed;
	pthread_t thread;
};

static void *work(void *arg)
{
	struct worker *worker = arg;
	void *mem = map(NPAGES, RW, PRIVATE);
	void *data = map(NPAGES, RW, PRIVATE);
	int round;

	for (round = 0; round < ROUNDS; round++) {
		__u64 tag = worker->tag + 8 * round;

		fill(mem, NPAGES, tag);
		if (device_read(worker->fd, mem, data, NPAGES) || !holds(data, 0, NPAGES, tag))
			worker->failed = true;
		fill(data, NPAGES, tag + 4);
		if (device_write(worker->fd, mem, data, NPAGES) || !holds(mem, 0, NPAGES, tag + 4))
			worker->failed = true;
		if (round % 8 == 0)
			map_at(mem, NPAGES, RW);
	}
	return NULL;
}

static void work_together(struct __test_metadata *_metadata, const int fd[4])
{
	struct worker worker[4];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(worker); i++) {
		worker[i] = (struct worker){ .fd = fd[i], .tag = i + 1 };
		worker[i].thread = start_thread(work, &worker[i]);
	}
	for (i = 0; i < ARRAY_SIZE(worker); i++) {
		pthread_join(worker[i].thread, NULL);
		EXPECT_FALSE(worker[i].failed);
	}
}

TEST_F_TIMEOUT(storm, threads_share_a_descriptor, STORM_TIMEOUT)
{
	const int fd[4] = { self->fd, self->fd, self->fd, self->fd };

	work_together(_metadata, fd);
}

TEST_F_TIMEOUT(storm, descriptors_share_a_process, STORM_TIMEOUT)
{
	int second = device_open(variant->unit);
	const int fd[4] = { self->fd, second, self->fd, second };

	work_together(_metadata, fd);
	EXPECT_EQ(0, close(second));
}

TEST_F_TIMEOUT(storm, devices_share_a_process, STORM_TIMEOUT)
{
	int other = device_open(!variant->unit);
	const int fd[4] = { self->fd, other, self->fd, other };

	work_together(_metadata, fd);
	EXPECT_EQ(0, close(other));
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/*
 * What the GPU mirror counts, for each device and each mirror: that the numbers
 * are those of what was done, and that they come and go with the mirror.
 */
#include <glob.h>

#include "kselftest_harness.h"
#include "gpu_mirror.h"

/* As many as the driver faults in at once, aligned. */
#define LEAF_PAGES	512

/* How often the machine may do something of its own to the memory. */
#define TRIES		10

FIXTURE(counters)
{
	int fd;
	struct counters device;
	struct counters mirror;
};

FIXTURE_VARIANT(counters)
{
	int unit;
};

FIXTURE_VARIANT_ADD(counters, dmirror0)
{
	.unit = 0,
};

FIXTURE_VARIANT_ADD(counters, dmirror1)
{
	.unit = 1,
};

FIXTURE_SETUP(counters)
{
	self->fd = -1;
	self->device = device_counters(variant->unit);
	if (!counters_exist(&self->device))
		SKIP(return, NO_COUNTERS);
	self->fd = device_open(variant->unit);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(1, count_mirrors(variant->unit, getpid(), &self->mirror));
}

FIXTURE_TEARDOWN(counters)
{
	EXPECT_EQ(0, self->fd < 0 ? 0 : close(self->fd));
}

TEST_F(counters, come_and_go_with_the_mirror)
{
	const char *const names[] = { "faults", "pages", "retries", "slow_paths", "refusals" };
	struct counters second;
	size_t i;
	int fd;

	EXPECT_EQ(0, count_mirrors(!variant->unit, getpid(), NULL));
	for (i = 0; i < ARRAY_SIZE(names); i++)
		EXPECT_EQ(0, counter(&self->mirror, names[i]));

	fd = device_open(variant->unit);
	ASSERT_EQ(2, count_mirrors(variant->unit, getpid(), &second));
	EXPECT_TRUE(counters_exist(&self->mirror));
	EXPECT_STRNE(self->mirror.dir, second.dir);
	EXPECT_EQ(0, close(self->fd));
	EXPECT_FALSE(counters_exist(&self->mirror));
	EXPECT_TRUE(counters_exist(&second));

	/* A duplicate is the same mirror. */
	self->fd = dup(fd);
	EXPECT_EQ(0, close(fd));
	EXPECT_TRUE(counters_exist(&second));
	EXPECT_EQ(0, close(self->fd));
	self->fd = -1;
	EXPECT_EQ(0, count_mirrors(variant->unit, getpid(), NULL));
}

static void *open_and_exit(void *arg)
{
	return (void *)(intptr_t)device_open(*(int *)arg);
}

TEST_F(counters, are_named_for_the_process)
{
	int unit = variant->unit;
	void *fd;

	pthread_join(start_thread(open_and_exit, &unit), &fd);
	EXPECT_EQ(2, count_mirrors(variant->unit, getpid(), NULL));
	EXPECT_EQ(0, close((intptr_t)fd));
	EXPECT_EQ(1, count_mirrors(variant->unit, getpid(), NULL));
}

/* Expects what the mirror and its device count of a command. */
static void expect_counts(struct __test_metadata *_metadata, const struct counters *const two[2],
			  int fd, unsigned long request, void *mem, size_t npages, __u64 faults,
			  __u64 pages)
{
	void *data = map(npages, RW, PRIVATE);
	__u64 counts[4];
	int i;

	for (i = 0; i < 2; i++) {
		counts[2 * i] = counter(two[i], "faults");
		counts[2 * i + 1] = counter(two[i], "pages");
	}
	device_do(fd, request, mem, data, npages);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(faults, counter(two[i], "faults") - counts[2 * i]);
		EXPECT_EQ(pages, counter(two[i], "pages") - counts[2 * i + 1]);
	}
	unmap(data, npages);
}

TEST_F(counters, count_faults_and_pages)
{
	const struct counters *const two[] = { &self->mirror, &self->device };
	uintptr_t size = LEAF_PAGES * page_size();
	void *mem = map(3 * LEAF_PAGES, RW, PRIVATE);
	void *border = (void *)(((uintptr_t)mem + 2 * size - 1) & -size);

	/* Nothing is faulted in by looking, nor where nothing is. */
	expect_counts(_metadata, two, self->fd, HMM_DMIRROR_SNAPSHOT, border, 3, 0, 0);
	unmap(page_at(border, 8), 1);
	expect_counts(_metadata, two, self->fd, HMM_DMIRROR_READ, page_at(border, 8), 1, 0, 0);

	/* Once, until the memory changes or more is wanted of it. */
	expect_counts(_metadata, two, self->fd, HMM_DMIRROR_READ, border, 3, 1, 3);
	expect_counts(_metadata, two, self->fd, HMM_DMIRROR_READ, border, 3, 0, 0);
	expect_counts(_metadata, two, self->fd, HMM_DMIRROR_READ, border, 4, 1, 1);
	expect_counts(_metadata, two, self->fd, HMM_DMIRROR_WRITE, border, 2, 1, 2);
	advise(border, 4, MADV_DONTNEED);
	expect_counts(_metadata, two, self->fd, HMM_DMIRROR_READ, border, 4, 1, 4);

	/* A leaf at a time. */
	expect_counts(_metadata, two, self->fd, HMM_DMIRROR_READ, page_at(border, -2), 2, 1, 2);
	advise(page_at(border, -2), 4, MADV_DONTNEED);
	expect_counts(_metadata, two, self->fd, HMM_DMIRROR_READ, page_at(border, -2), 4, 2, 4);
}

/* What all mirrors of the process on the device count together. */
static __u64 counter_sum(int unit, pid_t pid, const char *name)
{
	struct counters one = device_counters(unit);
	char pattern[128];
	glob_t mirrors;
	__u64 sum = 0;
	size_t i;

	snprintf(pattern, sizeof(pattern), "%s/%d-*", one.dir, pid);
	if (glob(pattern, 0, NULL, &mirrors))
		die(pattern);
	for (i = 0; i < mirrors.gl_pathc; i++) {
		snprintf(one.dir, sizeof(one.dir), "%s", mirrors.gl_pathv[i]);
		sum += counter(&one, name);
	}
	globfree(&mirrors);
	return sum;
}

static void map_unmap(void *mem)
{
	unmap(mem, 4);
	map_at(mem, 4, RW);
}

static void make_read_only(void *mem)
{
	protect(mem, 4, PROT_READ);
}

static void drop(void *mem)
{
	advise(mem, 4, MADV_DONTNEED);
}

/*
 * How many invalidations one change makes as the mirror counts them, and @beside
 * too: the least of several tries, as the machine may do something of its own.
 */
static __u64 invalidations(const struct counters *mirror, const struct counters *beside,
			   void (*change)(void *mem), __u64 *counted_beside)
{
	__u64 least = -1, least_beside = -1;
	int tries;

	for (tries = 0; tries < TRIES; tries++) {
		void *mem = map(4, RW, PRIVATE);
		__u64 n, m;

		fill(mem, 4, OLD_DATA);
		n = counter(mirror, "invalidations");
		m = counter(beside, "invalidations");
		change(mem);
		n = counter(mirror, "invalidations") - n;
		m = counter(beside, "invalidations") - m;
		least = n < least ? n : least;
		least_beside = m < least_beside ? m : least_beside;
		unmap(mem, 4);
	}
	*counted_beside = least_beside;
	return least;
}

TEST_F(counters, count_invalidations)
{
	void (*const changes[])(void *mem) = { map_unmap, make_read_only, drop };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(changes); i++) {
		__u64 of_device;

		EXPECT_EQ(1, invalidations(&self->mirror, &self->device, changes[i], &of_device));
		EXPECT_EQ(1, of_device);
	}
}

TEST_F(counters, are_apart_for_two_mirrors)
{
	void *mem = map(4, RW, PRIVATE), *data = map(4, RW, PRIVATE);
	int fd = device_open(variant->unit), other = device_open(!variant->unit);
	struct counters second, elsewhere;
	__u64 counted;

	ASSERT_EQ(2, count_mirrors(variant->unit, getpid(), &second));
	ASSERT_EQ(1, count_mirrors(!variant->unit, getpid(), &elsewhere));
	ASSERT_EQ(0, device_read(fd, mem, data, 4));
	EXPECT_EQ(0, counter(&self->mirror, "faults"));
	EXPECT_EQ(1, counter(&second, "faults"));
	EXPECT_EQ(0, counter(&elsewhere, "faults"));

	/* Those of one device have the process in common, so that they can be added up. */
	ASSERT_EQ(0, device_read(self->fd, mem, data, 4));
	EXPECT_EQ(1, counter(&self->mirror, "faults"));
	EXPECT_EQ(2, counter_sum(variant->unit, getpid(), "faults"));
	EXPECT_EQ(0, counter_sum(!variant->unit, getpid(), "faults"));

	/* Each mirror is invalidated, whether or not it has the pages. */
	EXPECT_EQ(1, invalidations(&self->mirror, &second, drop, &counted));
	EXPECT_EQ(1, counted);
	EXPECT_EQ(2, invalidations(&self->device, &elsewhere, drop, &counted));
	EXPECT_EQ(1, counted);
	EXPECT_EQ(0, close(fd));
	EXPECT_EQ(0, close(other));
}

/* A child works with its parent's mirror, and is counted there. */
TEST_F(counters, are_shared_after_fork)
{
	struct gate closed = gate();
	void *mem = map(4, RW, PRIVATE), *data = map(4, RW, PRIVATE);
	pid_t pid = start_child();

	if (!pid) {
		struct counters own;
		int fd;

		ASSERT_EQ(0, count_mirrors(variant->unit, getpid(), NULL));
		ASSERT_EQ(0, device_read(self->fd, mem, data, 4));
		ASSERT_EQ(4, counter(&self->mirror, "pages"));

		fd = device_open(variant->unit);
		ASSERT_EQ(1, count_mirrors(variant->unit, getpid(), &own));
		ASSERT_EQ(0, device_read(fd, mem, data, 2));
		ASSERT_EQ(2, counter(&own, "pages"));
		ASSERT_EQ(4, counter(&self->mirror, "pages"));

		ASSERT_TRUE(gate_wait(&closed));
		ASSERT_TRUE(counters_exist(&self->mirror));
		ASSERT_EQ(0, close(self->fd));
		ASSERT_FALSE(counters_exist(&self->mirror));
		ASSERT_TRUE(counters_exist(&own));
		_exit(0);
	}
	EXPECT_EQ(0, close(self->fd));
	self->fd = -1;
	gate_open(&closed);
	EXPECT_EQ(0, wait_child(pid));
	EXPECT_EQ(0, count_mirrors(variant->unit, pid, NULL));
	EXPECT_EQ(0, count_mirrors(variant->unit, getpid(), NULL));
}

TEST_HARNESS_MAIN

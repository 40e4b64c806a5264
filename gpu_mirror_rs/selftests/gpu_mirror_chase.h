/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A device that is led into the slow path of a fault. Behind gpu_mirror.h.
 */
#ifndef _GPU_MIRROR_CHASE_H
#define _GPU_MIRROR_CHASE_H

#include <sched.h>

/* As many as the driver faults in at once, aligned. */
#define LEAF_PAGES	512

/* How often the device is led on before it is given up. */
#define LAPS		1000

/* Pages that one leaf of the device's page table maps. */
static inline void *map_leaf(void)
{
	uintptr_t size = LEAF_PAGES * page_size();
	uintptr_t mem = (uintptr_t)map(2 * LEAF_PAGES, RW, PRIVATE);

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

static inline unsigned int chase_reads(struct chase *chase)
{
	return __atomic_load_n(&chase->reads, __ATOMIC_SEQ_CST);
}

static inline void *chase_run(void *arg)
{
	struct chase *chase = arg;

	do {
		__atomic_add_fetch(&chase->reads, 1, __ATOMIC_SEQ_CST);
		chase->ret = device_read(chase->fd, chase->mem, chase->data, LEAF_PAGES);
		/* On a slow machine the laps of one read may take all its time. */
		if (chase->ret && chase->ret != -EBUSY) {
			errno = -chase->ret;
			die("a read that is chased");
		}
	} while (!__atomic_load_n(&chase->over, __ATOMIC_SEQ_CST));
	return NULL;
}

static inline void schedule_as(int policy, int priority)
{
	const struct sched_param param = { .sched_priority = priority };

	if (sched_setscheduler(0, policy, &param))
		die("sched_setscheduler");
}

static inline bool chase_start(struct chase *chase)
{
	cpu_set_t cpu;

	*chase = (struct chase) {
		.fd = device_open(0),
		.mem = map_leaf(),
		.data = map(LEAF_PAGES, RW, PRIVATE),
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

static inline bool is_present(void *page)
{
	unsigned char present;

	if (mincore(page, page_size(), &present))
		die("mincore");
	return present & 1;
}

/* Lets the device out of the trap, into a collision, and to where the trap was. */
static inline void chase_on(struct chase *chase)
{
	const struct timespec pause = { .tv_nsec = 20000 };
	void *others = page_at(chase->mem, 1);

	advise(others, LEAF_PAGES - 1, MADV_DONTNEED);
	trap_release(&chase->trap, OLD_DATA);
	while (!is_present(others))
		nanosleep(&pause, NULL);
	advise(chase->mem, 1, MADV_DONTNEED);
}

/*
 * Returns when the device is in the trap in the slow path, which one and the
 * same read has entered for the @nth time; false if it never is.
 */
static inline bool chase_into_slow_path(struct chase *chase, int nth)
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

#endif /* _GPU_MIRROR_CHASE_H */

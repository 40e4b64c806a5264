// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * Shows what paging on demand is: a peer reads and writes a process's memory
 * while that is mapped anew, protected, and moved under the transfer. Every
 * byte that either side sees is compared with what has to be there. Not a test:
 * a text to read, and a status.
 */
#define _GNU_SOURCE

#include "rdma_odp.h"

#define SIZE	(64 * KIB)
#define PAGES	(SIZE / PAGE)
#define WORDS	(SIZE / sizeof(__u64))
/* The rounds of the storm, which are after those of the acts. */
#define FIRST	5
#define ROUNDS	64

static size_t compared, mismatches, surprises;

static const char *verdict(size_t before)
{
	return mismatches == before ? "every byte is right" : "NOT EVERY BYTE IS RIGHT";
}

static const char *expect(bool as_expected)
{
	surprises += !as_expected;
	return as_expected ? "as it must be" : "WHICH IS WRONG";
}

/* A place in the data of a round. Never zero. */
static __u64 word(__u64 round, size_t index)
{
	return round << 32 | index;
}

static void set(__u64 *words, __u64 round)
{
	size_t i;

	for (i = 0; i < WORDS; i++)
		words[i] = word(round, i);
}

static void compare(const __u64 *words, __u64 round)
{
	size_t i;

	for (i = 0; i < WORDS; i++)
		mismatches += words[i] != word(round, i);
	compared += SIZE;
}

/* What the process has, and what the peer has. */
struct stage {
	struct link link;
	struct region own;
	struct region peers;
};

static bool moved(struct stage *s, enum way how, const struct region *to,
		  const struct region *from)
{
	return move(&s->link, how, to, to->mem, from, from->mem, SIZE) == IBV_WC_SUCCESS;
}

static void peer_writes(struct stage *s)
{
	size_t before = mismatches;

	set((__u64 *)s->peers.mem, 1);
	printf("1. The process registers memory that it never touched: %zu of %zu pages\n",
	       present(s->own.mem, SIZE), PAGES);
	if (!moved(s, WRITE, &s->own, &s->peers))
		expect(false);
	compare((__u64 *)s->own.mem, 1);
	printf("     the peer writes, the process reads: %s\n", verdict(before));
}

static void map_anew(struct stage *s)
{
	size_t before = mismatches;

	unmap(s->own.mem, SIZE);
	map_at(s->own.mem, SIZE, RW);
	set((__u64 *)s->own.mem, 2);
	if (!moved(s, READ, &s->peers, &s->own))
		expect(false);
	compare((__u64 *)s->peers.mem, 2);
	printf("2. The process unmaps it and maps other memory there, the peer reads: %s\n",
	       verdict(before));
}

static void make_read_only(struct stage *s)
{
	size_t before = mismatches;
	bool refused;

	protect(s->own.mem, SIZE, PROT_READ);
	set((__u64 *)s->peers.mem, 3);
	refused = !moved(s, WRITE, &s->own, &s->peers) &&
		s->link.status == IBV_WC_REM_ACCESS_ERR;
	printf("3. The process makes it read-only, the peer writes: %s, %s\n",
	       ibv_wc_status_str(s->link.status), expect(refused));
	link_renew(&s->link);
	protect(s->own.mem, SIZE, RW);
	compare((__u64 *)s->own.mem, 2);
	printf("     and the memory is as it was: %s\n", verdict(before));
}

static void whole_address_space(struct stage *s)
{
	size_t before = mismatches;
	struct region all = {
		.mr = ibv_reg_mr(s->link.pd, NULL, SIZE_MAX, ALL_ACCESS | ODP),
	};

	if (!all.mr) {
		printf("4. A region of all addresses: this driver has none\n");
		return;
	}
	all.mem = map(SIZE, RW, PRIVATE);
	set((__u64 *)s->peers.mem, 4);
	if (!moved(s, WRITE, &all, &s->peers))
		expect(false);
	compare((__u64 *)all.mem, 4);
	printf("4. The process registers all addresses, then maps memory, the peer writes: %s\n",
	       verdict(before));
	unmap(all.mem, SIZE);
	if (ibv_dereg_mr(all.mr))
		die("cannot give a region back");
}

/* Two files take turns at one address; they can be seen at others all the time. */
struct storm {
	pthread_mutex_t lock;
	char *mem;
	int fds[2];
	const __u64 *seen[2];
	int current;
	size_t swaps;
	/* The lock is wanted by who would hardly get it otherwise. */
	bool pause;
	bool stop;
};

static void swap_files(struct storm *storm)
{
	pthread_mutex_lock(&storm->lock);
	storm->current = !storm->current;
	if (mmap(storm->mem, SIZE, RW, MAP_SHARED | MAP_FIXED, storm->fds[storm->current], 0) !=
	    storm->mem)
		die("mmap");
	storm->swaps++;
	pthread_mutex_unlock(&storm->lock);
}

static void *keep_swapping(void *data)
{
	struct storm *storm = data;

	while (!__atomic_load_n(&storm->stop, __ATOMIC_RELAXED)) {
		if (__atomic_load_n(&storm->pause, __ATOMIC_RELAXED))
			sched_yield();
		else
			swap_files(storm);
	}
	return NULL;
}

/* Each word of the round is in one of the files, and nothing of later ones. */
static void compare_either(const struct storm *storm, __u64 round)
{
	size_t i;

	for (i = 0; i < WORDS; i++) {
		__u64 want = word(round, i);
		__u64 x = storm->seen[0][i], y = storm->seen[1][i];

		mismatches += (x > y ? x : y) != want;
	}
	compared += 2 * SIZE;
}

static void under_transfers(struct stage *s)
{
	size_t before = mismatches, failures = 0;
	struct storm storm = { .lock = PTHREAD_MUTEX_INITIALIZER, .mem = s->own.mem };
	pthread_t thread;
	__u64 round;
	int i;

	for (i = 0; i < 2; i++) {
		storm.fds[i] = tmpfs_file(SIZE);
		storm.seen[i] = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, storm.fds[i], 0);
		if (storm.seen[i] == MAP_FAILED)
			die("mmap");
	}
	swap_files(&storm);
	if (pthread_create(&thread, NULL, keep_swapping, &storm))
		die("pthread_create");
	for (round = FIRST; round < FIRST + ROUNDS; round++) {
		set((__u64 *)s->peers.mem, round);
		if (!moved(s, WRITE, &s->own, &s->peers)) {
			failures++;
			link_renew(&s->link);
			/* Some of it may be there. */
			continue;
		}
		compare_either(&storm, round);

		/* With the last change over, it is known where the data has to be. */
		__atomic_store_n(&storm.pause, true, __ATOMIC_RELAXED);
		pthread_mutex_lock(&storm.lock);
		round++;
		set((__u64 *)s->peers.mem, round);
		if (!moved(s, WRITE, &s->own, &s->peers)) {
			failures++;
			link_renew(&s->link);
		} else {
			compare(storm.seen[storm.current], round);
		}
		pthread_mutex_unlock(&storm.lock);
		__atomic_store_n(&storm.pause, false, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&storm.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	surprises += failures;
	printf("5. Two files take turns at the address while the peer writes there\n");
	printf("     %zu turns, %d transfers: %s\n", storm.swaps, ROUNDS, verdict(before));
	if (failures)
		printf("     %zu transfers FAILED, %s\n", failures,
		       ibv_wc_status_str(s->link.status));
}

int main(void)
{
	struct stage s;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!link_open(&s.link)) {
		printf("verdict: the demo could not be run: %s\n", NO_DEVICE);
		return 1;
	}
	s.own = region_make(&s.link, ANON, SIZE, ALL_ACCESS | ODP);
	s.peers = region_make(&s.link, ANON, SIZE, ALL_ACCESS);
	if (!s.own.mr || !s.peers.mr)
		die("cannot register memory");
	printf("A peer works on %lu KiB of this process's memory at %p, which is not pinned.\n\n",
	       SIZE / KIB, s.own.mem);
	peer_writes(&s);
	map_anew(&s);
	make_read_only(&s);
	whole_address_space(&s);
	under_transfers(&s);
	if (ibv_dereg_mr(s.own.mr) || ibv_dereg_mr(s.peers.mr) || link_close(&s.link))
		die("cannot give all back");
	printf("\n  %-34s%12zu\n", "bytes compared", compared);
	printf("  %-34s%12zu\n", "mismatches", mismatches);
	if (mismatches || surprises) {
		printf("verdict: BAD; %zu words were wrong and %zu answers\n", mismatches,
		       surprises);
		return 1;
	}
	printf("verdict: good; the peer always had what the process had\n");
	return 0;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Storms while two devices pull memory to and fro: one thread changes it, one
 * thread for each device moves it there and back, takes it for the device
 * alone and lets allocations fail, and one has the first device read and write
 * it. Every byte that a device delivers is checked, and what is left at the end.
 *
 * A line of its own tells what was done in each storm:
 *   figures: storm=NAME devices=PAIR KEY=NUMBER...
 */
#define _GNU_SOURCE

#include "kselftest.h"
#include "gpu_mirror_storms.h"

#define DEFAULT_MS	300
/* Of each kind of thing that is to happen in a storm, and how long that is waited for. */
#define AT_LEAST	2
#define MOST_NS		20000000000ULL

static bool move_to_twin_and_back(struct target *t)
{
	move(t->mem, NPAGES, t->twin);
	move(t->twin, NPAGES, t->mem);
	map_at(t->twin, NPAGES, RW);
	return true;
}

static const struct kind more_kinds[] = {
	{ .name = "mremap", .change = move_to_twin_and_back, .refusal = -EFAULT },
	{ .name = "touch", .change = just_write },
	{ .name = "touch_huge", .change = just_write, .huge = true },
};

/* Whose memory the storm's pages go to. */
static const struct pair {
	const char *name;
	int unit[2];
} pairs[] = {
	{ "private", { 0, 1 } },
	{ "coherent", { 2, 3 } },
	{ "mixed", { 0, 2 } },
};

/* A thread that moves the target to a device and back. */
struct mover {
	int fd;
	const struct kind *kind;
	struct target *t;
	void *data;
	__u64 over;
	__u64 moved;
	__u64 stayed;
	__u64 back;
	__u64 exclusive;
	__u64 errors;
	pthread_t thread;
};

/* What the driver may say while the pages change as they do. */
static bool is_expected(const struct mover *m, unsigned long request, int ret)
{
	bool has_holes = m->kind->refusal == -EFAULT;

	switch (request) {
	case HMM_DMIRROR_MIGRATE_TO_DEV:
		return !ret || ret == -ENOENT ||
		       (has_holes && (ret == -EINVAL || ret == -EFAULT));
	case HMM_DMIRROR_MIGRATE_TO_SYS:
		return !ret || ret == -ENOMEM || (ret == -EINVAL && has_holes);
	case HMM_DMIRROR_EXCLUSIVE:
		/* What was taken back at once has no data to give. */
		return !ret || ret == -ENOENT || ret == -EBUSY ||
		       (m->kind->refusal && (ret == -EFAULT || ret == -EPERM));
	default:
		return !ret;
	}
}

static bool mover_do(struct mover *m, unsigned long request, size_t npages)
{
	struct hmm_dmirror_cmd cmd;
	int ret = device_command(m->fd, request, m->t->mem, m->data, npages, &cmd);

	if (!is_expected(m, request, ret) && m->errors++ < FIRST_WRONG)
		ksft_print_msg("command %#lx fails with %s\n", request, strerror(-ret));
	return !ret && (cmd.cpages || request == HMM_DMIRROR_FLAGS);
}

/* Data of whatever age, or none yet, but where it belongs. */
static bool is_in_place(const __u64 *data, size_t npages)
{
	size_t words = page_size() / sizeof(*data), i;

	for (i = 0; i < npages * words; i++)
		if (data[i] && data[i] != word_of(data[i] >> 40, i / words, i % words))
			return false;
	return true;
}

static void *mover_run(void *arg)
{
	struct mover *m = arg;
	__u64 moved = 0, back = 0, exclusive = 0;
	unsigned int i;

	for (i = 0; !load(&m->over); i++) {
		/* All of a huge page, or what is written of it. */
		size_t all = i % 2 ? NPAGES : m->t->mirrored;

		if (i % 8 == 5)
			fail_next_allocation(m->fd);
		if (!mover_do(m, HMM_DMIRROR_MIGRATE_TO_DEV, all))
			m->stayed++;
		else if (is_in_place(m->data, all))
			store(&m->moved, ++moved);
		else if (m->errors++ < FIRST_WRONG)
			ksft_print_msg("the data of moved pages is wrong\n");

		switch (i % 4) {
		case 0:
			back += mover_do(m, HMM_DMIRROR_MIGRATE_TO_SYS, all);
			store(&m->back, back);
			break;
		case 1:
			exclusive += mover_do(m, HMM_DMIRROR_EXCLUSIVE, NPAGES / 4);
			store(&m->exclusive, exclusive);
			break;
		case 2:
			back += mover_do(m, HMM_DMIRROR_MIGRATE_TO_SYS, NPAGES / 2);
			break;
		case 3:
			if (i % 16 == 3)
				device_release(m->fd);
			break;
		}
	}
	return NULL;
}

static bool has_happened(struct mover movers[2])
{
	return load(&movers[0].moved) + load(&movers[1].moved) >= AT_LEAST &&
	       load(&movers[0].exclusive) + load(&movers[1].exclusive) >= AT_LEAST;
}

/* What the CPU sees in the end is what the device saw, and nothing stays there. */
static __u64 check_end(struct work *w, struct mover movers[2])
{
	size_t rest = w->t->mirrored - NPAGES;
	__u64 wrong = 0;
	int i;

	wrong += !!device_read(w->fd, w->t->mem, w->data, NPAGES);
	check(w, load(&w->t->finished), load(&w->t->started));
	for (i = 0; i < 2; i++)
		wrong += to_system(movers[i].fd, w->t->mem, w->t->mirrored) < 0;
	wrong += !!memcmp(w->data, w->t->mem, NPAGES * page_size());
	if (rest)
		wrong += !is_zero(page_at(w->t->mem, NPAGES), rest);
	return wrong;
}

static void run(const struct pair *pair, const struct kind *kind, __u64 length)
{
	struct outcomes outcomes = { 0 };
	struct mover movers[2];
	struct storm storm;
	struct target t;
	struct work w;
	__u64 changes, errors = 0, left = 0, end;
	int i;

	target_make(&t, kind, true);
	for (i = 0; i < 2; i++) {
		movers[i] = (struct mover){
			.fd = device_open(pair->unit[i]),
			.kind = kind,
			.t = &t,
			.data = map(t.mirrored, RW, PRIVATE | MAP_POPULATE),
		};
		advise(movers[i].data, t.mirrored, MADV_DONTFORK);
	}
	w = (struct work){
		.fd = movers[0].fd,
		.data = map(2 * NPAGES, RW, PRIVATE | MAP_POPULATE),
		.t = &t,
		.refusal = kind->refusal,
		.tag = 1,
		.outcomes = &outcomes,
	};
	w.sent = page_at(w.data, NPAGES);
	advise(w.data, 2 * NPAGES, MADV_DONTFORK);
	storm = (struct storm){ .kind = kind, .t = &t };

	storm.thread = start_thread(storm_run, &storm);
	for (i = 0; i < 2; i++)
		movers[i].thread = start_thread(mover_run, &movers[i]);
	end = now() + length + MOST_NS;
	do {
		work_for(&w, length, AT_LEAST);
	} while (!has_happened(movers) && now() < end);
	for (i = 0; i < 2; i++) {
		store(&movers[i].over, 1);
		pthread_join(movers[i].thread, NULL);
		errors += movers[i].errors;
	}
	changes = storm_end(&storm);
	errors += check_end(&w, movers) + outcomes.errors;

	for (i = 0; i < 2; i++) {
		struct counters device = device_counters(pair->unit[i]);

		close(movers[i].fd);
		if (counters_exist(&device))
			left += memory_used(pair->unit[i]);
		unmap(movers[i].data, t.mirrored);
	}
	unmap(w.data, 2 * NPAGES);
	target_free(&t);

	printf("figures: storm=%s devices=%s changes=%llu ioctls=%llu busy=%llu refused=%llu",
	       kind->name, pair->name, changes, outcomes.ioctls, outcomes.busy, outcomes.refused);
	for (i = 0; i < 2; i++)
		printf(" moved%d=%llu stayed%d=%llu back%d=%llu exclusive%d=%llu", i,
		       movers[i].moved, i, movers[i].stayed, i, movers[i].back, i,
		       movers[i].exclusive);
	printf(" errors=%llu wrong=%llu left=%llu\n", errors, outcomes.wrong, left);
	if (!has_happened(movers))
		ksft_print_msg("too little went to the devices\n");
	ksft_test_result(!errors && !outcomes.wrong && !left && outcomes.ioctls &&
			 has_happened(movers), "%s.%s\n", pair->name, kind->name);
}

/* What to do with each storm that is chosen. */
enum step { LIST, COUNT, RUN };

struct options {
	bool list;
	__u64 length;
	char **names;	/* of storms */
	char **cases;	/* of storms with their devices */
};

static struct options parse(int argc, char **argv)
{
	struct options options = {
		.length = DEFAULT_MS * 1000000ULL,
		.cases = calloc(argc, sizeof(char *)),
	};
	size_t count = 0;
	int opt;

	while ((opt = getopt(argc, argv, "lr:t:")) != -1) {
		switch (opt) {
		case 'l':
			options.list = true;
			break;
		case 'r':
			options.cases[count++] = optarg;
			break;
		case 't':
			options.length = atoll(optarg) * 1000000ULL;
			break;
		default:
			fprintf(stderr,
				"usage: %s [-l] [-t MILLISECONDS] [-r PAIR.STORM]... [STORM]...\n",
				argv[0]);
			exit(KSFT_FAIL);
		}
	}
	options.names = argv + optind;
	return options;
}

static bool is_chosen_with(const struct pair *pair, const struct kind *kind, char **cases)
{
	char name[64];
	char **one;

	snprintf(name, sizeof(name), "%s.%s", pair->name, kind->name);
	for (one = cases; *one; one++)
		if (!strcmp(*one, name))
			return true;
	return !*cases;
}

static void consider(const struct pair *pair, const struct kind *kind,
		     const struct options *options, enum step step, unsigned int *plan)
{
	/* Without a change there is no storm. */
	if (!kind->change || !is_chosen(kind, options->names) ||
	    !is_chosen_with(pair, kind, options->cases))
		return;
	++*plan;
	if (step == COUNT)
		return;
	if (step == LIST)
		/* In the columns of kselftest_harness.h. */
		fprintf(stderr, "%-20s %-25s %s\n", pair->name, "", kind->name);
	else if (!device_exists(pair->unit[0]) || !device_exists(pair->unit[1]))
		ksft_test_result_skip("%s.%s %s\n", pair->name, kind->name, NO_COHERENT);
	else if (kind->lack && kind->lack())
		ksft_test_result_skip("%s.%s %s\n", pair->name, kind->name, kind->lack());
	else
		run(pair, kind, options->length);
}

static unsigned int for_all(const struct options *options, enum step step)
{
	unsigned int plan = 0;
	size_t i, j;

	for (i = 0; i < ARRAY_SIZE(pairs); i++) {
		for (j = 0; j < ARRAY_SIZE(kinds); j++)
			consider(&pairs[i], &kinds[j], options, step, &plan);
		for (j = 0; j < ARRAY_SIZE(more_kinds); j++)
			consider(&pairs[i], &more_kinds[j], options, step, &plan);
	}
	return plan;
}

int main(int argc, char **argv)
{
	struct options options = parse(argc, argv);

	if (options.list) {
		for_all(&options, LIST);
		return KSFT_SKIP;
	}
	ksft_print_header();
	ksft_set_plan(for_all(&options, COUNT));
	if (!device_exists(0))
		ksft_exit_fail_msg("no /dev/hmm_dmirror0\n");
	turn_knobs();
	for_all(&options, RUN);
	turn_knobs_back();
	ksft_finished();
}

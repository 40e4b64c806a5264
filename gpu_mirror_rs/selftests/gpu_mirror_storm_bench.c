// SPDX-License-Identifier: GPL-2.0
/*
 * What a device fault costs while memory changes, for any driver of the GPU
 * mirror: test_hmm or gpu_mirror_rs.
 *
 * One thread has the device fault 16 pages in, again and again; others change
 * the same pages, or unrelated ones of the same process. Besides the time that
 * the device takes, ftrace tells how often the driver had to read the page
 * tables for it; both in passes of their own, since tracing takes time.
 *
 * Every byte that the device delivers is checked. As storms soon wipe out what
 * a driver wrongly kept, races look for that in addition.
 *
 * Figures for programs are in lines of their own, with times in nanoseconds;
 * what the driver itself counts is 0 where it does not:
 *   figures: storm=NAME range=same|unrelated KEY=NUMBER...
 *   figures: race=NAME KEY=NUMBER...
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "kselftest.h"
#include "gpu_mirror_storms.h"

/* Enough that the first pages change while the last ones are being read. */
#define RACE_PAGES	64
#define MAX_THREADS	16
#define MIN_IOCTLS	20
/* So that the slowest in a hundred is not just the slowest. */
#define MIN_TIMED	100
#define MIN_ROUNDS	60
#define DEFAULT_MS	1200

#define TRACING		"/sys/kernel/tracing/instances/"
#define DRIVER_COUNTS	"/sys/kernel/debug/gpu_mirror_rs/hmm_dmirror0/"

/* How often the kernel calls a function, counted by an ftrace of its own. */
struct counter {
	const char *dir;
	const char *function;
};

static const struct counter faults = {
	.dir = TRACING "gpu_mirror_faults/",
	/* hmm_range_fault() once, hmm_range_fault_unlocked_timeout() once for each try. */
	.function = "hmm_range_fault_locked",
};

static const struct counter invalidations = {
	.dir = TRACING "gpu_mirror_invalidations/",
	.function = "__mmu_notifier_invalidate_range_start",
};

static void counter_set(const struct counter *counter, const char *file, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s%s", counter->dir, file);
	set(path, text);
}

static void counter_make(const struct counter *counter)
{
	if (mkdir(counter->dir, 0700) && errno != EEXIST)
		die(counter->dir);
	counter_set(counter, "set_ftrace_filter", counter->function);
	counter_set(counter, "current_tracer", "function");
}

static void counter_start(const struct counter *counter)
{
	counter_set(counter, "trace", "\n");
	counter_set(counter, "tracing_on", "1");
}

/* What the buffers hold and what they had no room for. */
static long long counter_stop(const struct counter *counter)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF), cpu;
	char path[128], line[128];
	long long calls = 0;

	counter_set(counter, "tracing_on", "0");
	for (cpu = 0; cpu < cpus; cpu++) {
		FILE *stats;

		snprintf(path, sizeof(path), "%sper_cpu/cpu%ld/stats", counter->dir, cpu);
		stats = fopen(path, "r");
		if (!stats)
			die(path);
		while (fgets(line, sizeof(line), stats)) {
			long long n;

			if (sscanf(line, "entries: %lld", &n) == 1 ||
			    sscanf(line, "overrun: %lld", &n) == 1)
				calls += n;
		}
		fclose(stats);
	}
	return calls;
}

/* What is known of one storm in the end. */
struct figures {
	struct outcomes all;
	__u64 changes;
	long long events;
	/* Of the timing pass. */
	__u64 timed;
	long long median;
	long long p99;
	long long worst;
	/* Of the counting pass. */
	__u64 counted;
	__u64 counted_changes;
	long long calls;
	long long invalidations;
	/* Told by the driver. */
	long long retries;
	long long slow_paths;
};

/*
 * Pages that are replaced one by one while the device reads the page tables:
 * each at most once, and the first ones first, as they are read. When both are
 * done, nothing changes any more, so what a driver kept must be what is there.
 * Neither way waits for the mmap lock.
 */
struct race {
	const char *name;
	void (*replace)(void *page);
	void *mem;
	__u64 value;
	__u64 go;
	__u64 read;
	__u64 done;
};

#define NO_MORE (~0ULL)

/* The pages are those of a file: to write one makes a copy. */
static void replace_by_copy(void *page)
{
}

static void replace_by_fresh(void *page)
{
	advise(page, 1, MADV_DONTNEED);
}

static void *race_run(void *arg)
{
	struct race *race = arg;
	__u64 round;
	size_t page;

	for (round = 1;; round++) {
		while (load(&race->go) < round)
			sched_yield();
		if (load(&race->go) == NO_MORE)
			return NULL;
		for (page = 0; page < RACE_PAGES && load(&race->read) < round; page++) {
			race->replace(page_at(race->mem, page));
			*(__u64 *)page_at(race->mem, page) = ++race->value;
		}
		store(&race->done, round);
	}
}

static void run_race(int fd, struct race *race, __u64 length)
{
	size_t size = RACE_PAGES * page_size(), i;
	void *data = map(RACE_PAGES, RW, PRIVATE | MAP_POPULATE);
	char *seen = data, *mem;
	__u64 end, round, wrong = 0, errors = 0;
	pthread_t thread;

	race->mem = map_file(RACE_PAGES, RW, MAP_PRIVATE, tmpfs_file(RACE_PAGES));
	mem = race->mem;
	thread = start_thread(race_run, race);
	end = now() + length;
	for (round = 1; round <= MIN_ROUNDS || now() < end; round++) {
		int ret;

		/* All pages are there, so that the device has none to wait for. */
		advise(mem, RACE_PAGES, MADV_DONTNEED);
		advise(mem, RACE_PAGES, MADV_POPULATE_READ);
		store(&race->go, round);
		ret = device_read(fd, mem, data, RACE_PAGES);
		store(&race->read, round);
		while (load(&race->done) < round)
			sched_yield();
		if (!ret || ret == -EBUSY)
			ret = device_read(fd, mem, data, RACE_PAGES);
		if (ret && errors++ < FIRST_WRONG)
			ksft_print_msg("round %llu fails with %s\n", round, strerror(-ret));
		if (ret || !memcmp(seen, mem, size))
			continue;
		for (i = 0; seen[i] == mem[i]; i++)
			;
		if (wrong++ < FIRST_WRONG)
			ksft_print_msg("round %llu: the device kept an old page %zu\n", round,
				       i / page_size());
	}
	store(&race->go, NO_MORE);
	pthread_join(thread, NULL);
	printf("figures: race=%s rounds=%llu replaced=%llu wrong=%llu errors=%llu\n", race->name,
	       round - 1, race->value, wrong, errors);
	ksft_test_result(!wrong && !errors, "race.%s\n", race->name);
	unmap(mem, RACE_PAGES);
	unmap(data, RACE_PAGES);
}

static struct race races[] = {
	{ .name = "copy", .replace = replace_by_copy },
	{ .name = "fresh", .replace = replace_by_fresh },
};

static int compare_times(const void *a, const void *b)
{
	const __u64 *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* The time that @percent of the ioctls took at most. */
static long long percentile(const struct work *w, unsigned int percent)
{
	return w->timed ? w->times[(w->timed * percent + 99) / 100 - 1] : -1;
}

/* Keeps the storms of unrelated memory away: compaction and fork take all of it. */
static void keep_out(const struct target *t)
{
	if (mlock(t->mem, NPAGES * page_size()))
		die("mlock");
	advise(t->mem, NPAGES, MADV_DONTFORK);
}

/* A kind of storm on the pages of the device, or on others. */
struct storm_test {
	const struct kind *kind;
	bool same;
	struct figures figures;
};

static void time_ioctls(struct work *w, struct figures *f, __u64 length)
{
	work_for(w, length, w->t->watched ? MIN_IOCTLS : MIN_TIMED);
	qsort(w->times, w->timed, sizeof(*w->times), compare_times);
	f->timed = w->timed;
	f->median = percentile(w, 50);
	f->p99 = percentile(w, 99);
	f->worst = percentile(w, 100);
}

static void run(struct work *w, struct storm_test *test, bool counting, __u64 length)
{
	static struct target others[MAX_THREADS];
	static struct storm storms[MAX_THREADS];
	struct figures *f = &test->figures;
	const struct kind *kind = test->kind;
	__u64 ioctls = f->all.ioctls, changes = 0;
	bool same = test->same;
	long threads, i;
	struct target t;

	target_make(&t, kind, same);
	if (!same)
		keep_out(&t);
	*w = (struct work){
		.fd = w->fd,
		.data = w->data,
		.sent = w->sent,
		.times = w->times,
		.t = &t,
		.refusal = kind->refusal,
		.reads_only = same && kind->still,
		.tag = 1,
		.outcomes = &f->all,
	};

	/* One CPU is the device's; on the same pages, one thread is enough. */
	threads = same ? 1 : sysconf(_SC_NPROCESSORS_ONLN) - 1;
	if (threads < 1)
		threads = 1;
	if (threads > MAX_THREADS)
		threads = MAX_THREADS;
	if (!kind->change)
		threads = 0;
	for (i = 0; i < threads; i++) {
		storms[i] = (struct storm){ .kind = kind, .t = &t };
		if (!same) {
			storms[i].t = &others[i];
			target_make(&others[i], kind, false);
		}
	}

	f->retries -= read_number(DRIVER_COUNTS "retries");
	f->slow_paths -= read_number(DRIVER_COUNTS "slow_paths");
	f->events -= kind->event ? event_count(kind->event) : 0;
	f->all.forgotten = 0;
	if (counting) {
		counter_start(&faults);
		counter_start(&invalidations);
	}
	for (i = 0; i < threads; i++)
		storms[i].thread = start_thread(storm_run, &storms[i]);
	if (counting)
		work_for(w, length, MIN_IOCTLS);
	else
		time_ioctls(w, f, length);
	for (i = 0; i < threads; i++)
		changes += storm_end(&storms[i]);
	f->changes += changes;
	f->events += kind->event ? event_count(kind->event) : 0;
	if (counting) {
		f->invalidations = counter_stop(&invalidations);
		f->calls = counter_stop(&faults);
		f->counted = f->all.ioctls - ioctls;
		f->counted_changes = changes;
	}
	f->retries += read_number(DRIVER_COUNTS "retries");
	f->slow_paths += read_number(DRIVER_COUNTS "slow_paths");

	for (i = 0; i < threads && !same; i++)
		target_free(&others[i]);
	target_free(&t);
}

/* Whether memory really changed as the storm's name says. */
static bool was_storm(const struct storm_test *test)
{
	const struct figures *f = &test->figures;

	if (!test->kind->change)
		return true;
	if (!f->changes || (test->kind->event && f->events <= 0))
		return false;
	/* Changes of the device's own pages may undo one another. */
	return test->same || f->invalidations >= f->all.forgotten + f->counted_changes;
}

static void report(const struct storm_test *test)
{
	const char *range = test->same ? "same" : "unrelated";
	const struct figures *f = &test->figures;

	printf("figures: storm=%s range=%s changes=%llu events=%lld ioctls=%llu faults=%llu",
	       test->kind->name, range, f->changes, f->events, f->all.ioctls, f->all.faults);
	printf(" busy=%llu refused=%llu errors=%llu wrong=%llu timed=%llu median=%lld p99=%lld",
	       f->all.busy, f->all.refused, f->all.errors, f->all.wrong, f->timed, f->median,
	       f->p99);
	printf(" worst=%lld counted=%llu calls=%lld forgotten=%llu counted_changes=%llu",
	       f->worst, f->counted, f->calls, f->all.forgotten, f->counted_changes);
	printf(" invalidations=%lld retries=%lld slow_paths=%lld\n", f->invalidations,
	       f->retries, f->slow_paths);
	if (f->all.wrong)
		ksft_print_msg("%llu words of the device's data are wrong\n", f->all.wrong);
	if (!was_storm(test))
		ksft_print_msg("there was no such storm\n");
	if (!f->timed || !f->counted)
		ksft_print_msg("the device faulted nothing in\n");
	ksft_test_result(!f->all.wrong && !f->all.errors && was_storm(test) && f->timed &&
			 f->counted, "%s.%s\n", test->kind->name, range);
}

int main(int argc, char **argv)
{
	static struct storm_test tests[2 * ARRAY_SIZE(kinds)];
	size_t ntests = 0, plan = ARRAY_SIZE(races), i;
	__u64 length = DEFAULT_MS * 1000000ULL;
	struct work work = { 0 };
	char **names = parse_options(argc, argv, &length);

	ksft_print_header();
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		const struct kind *kind = &kinds[i];

		if (!is_chosen(kind, names))
			continue;
		if (kind->lack && kind->lack()) {
			ksft_test_result_skip("%s %s\n", kind->name, kind->lack());
			plan++;
			continue;
		}
		if (kind->change)
			tests[ntests++] = (struct storm_test){ .kind = kind, .same = true };
		tests[ntests++] = (struct storm_test){ .kind = kind };
	}
	ksft_set_plan(plan + ntests);

	work.fd = device_open(0);
	if (work.fd < 0)
		ksft_exit_fail();
	work.data = map(2 * NPAGES, RW, PRIVATE | MAP_POPULATE);
	work.sent = page_at(work.data, NPAGES);
	advise(work.data, 2 * NPAGES, MADV_DONTFORK);
	work.times = calloc(MAX_SAMPLES, sizeof(*work.times));
	if (!work.times)
		die("calloc");
	turn_knobs();
	for (i = 0; i < ntests; i++)
		run(&work, &tests[i], false, tests[i].same ? length / 2 : length);
	/* Not earlier: a function that is traced takes longer. */
	counter_make(&faults);
	counter_make(&invalidations);
	for (i = 0; i < ntests; i++) {
		run(&work, &tests[i], true, length / 3);
		report(&tests[i]);
	}
	rmdir(faults.dir);
	rmdir(invalidations.dir);
	turn_knobs_back();

	for (i = 0; i < ARRAY_SIZE(races); i++)
		run_race(work.fd, &races[i], length);
	close(work.fd);
	ksft_finished();
}

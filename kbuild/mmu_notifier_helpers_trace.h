/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints of mmu_notifier_helpers. They are called from Rust only; see
 * mmu_notifier_helpers/src/trace.rs for when.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM mmu_notifier_helpers

#if !defined(_MMU_NOTIFIER_HELPERS_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _MMU_NOTIFIER_HELPERS_TRACE_H

#include <linux/mm_types.h>
#include <linux/mmu_notifier.h>
#include <linux/tracepoint.h>

#ifndef _MMU_NOTIFIER_HELPERS_TRACE_ENUMS
#define _MMU_NOTIFIER_HELPERS_TRACE_ENUMS
enum mnh_access {
	MNH_ACCESS_LOOK,
	MNH_ACCESS_READ,
	MNH_ACCESS_WRITE,
};

/* Stands for the members of enum mmu_notifier_event that Rust does not know. */
enum mnh_event {
	MNH_EVENT_OTHER = -1,
};
#endif

TRACE_DEFINE_ENUM(MNH_ACCESS_LOOK);
TRACE_DEFINE_ENUM(MNH_ACCESS_READ);
TRACE_DEFINE_ENUM(MNH_ACCESS_WRITE);
TRACE_DEFINE_ENUM(MNH_EVENT_OTHER);
TRACE_DEFINE_ENUM(MMU_NOTIFY_UNMAP);
TRACE_DEFINE_ENUM(MMU_NOTIFY_CLEAR);
TRACE_DEFINE_ENUM(MMU_NOTIFY_PROTECTION_VMA);
TRACE_DEFINE_ENUM(MMU_NOTIFY_PROTECTION_PAGE);
TRACE_DEFINE_ENUM(MMU_NOTIFY_SOFT_DIRTY);
TRACE_DEFINE_ENUM(MMU_NOTIFY_RELEASE);
TRACE_DEFINE_ENUM(MMU_NOTIFY_MIGRATE);
TRACE_DEFINE_ENUM(MMU_NOTIFY_EXCLUSIVE);

#define mnh_show_access(access)						\
	__print_symbolic(access,					\
			 { MNH_ACCESS_LOOK, "look" },			\
			 { MNH_ACCESS_READ, "read" },			\
			 { MNH_ACCESS_WRITE, "write" })

#define mnh_show_event(event)						\
	__print_symbolic(event,						\
			 { MNH_EVENT_OTHER, "other" },			\
			 { MMU_NOTIFY_UNMAP, "unmap" },			\
			 { MMU_NOTIFY_CLEAR, "clear" },			\
			 { MMU_NOTIFY_PROTECTION_VMA, "protection_vma" },	\
			 { MMU_NOTIFY_PROTECTION_PAGE, "protection_page" },	\
			 { MMU_NOTIFY_SOFT_DIRTY, "soft_dirty" },	\
			 { MMU_NOTIFY_RELEASE, "release" },		\
			 { MMU_NOTIFY_MIGRATE, "migrate" },		\
			 { MMU_NOTIFY_EXCLUSIVE, "exclusive" })

TRACE_EVENT(mnh_fault,
	    TP_PROTO(const struct mm_struct *mm, unsigned long start, unsigned long end,
		     unsigned int access, int result, unsigned int collisions, bool slow),
	    TP_ARGS(mm, start, end, access, result, collisions, slow),
	    TP_STRUCT__entry(__field(const struct mm_struct *, mm)
			     __field(unsigned long, start)
			     __field(unsigned long, end)
			     __field(unsigned int, access)
			     __field(int, result)
			     __field(unsigned int, collisions)
			     __field(bool, slow)),
	    TP_fast_assign(__entry->mm = mm;
			   __entry->start = start;
			   __entry->end = end;
			   __entry->access = access;
			   __entry->result = result;
			   __entry->collisions = collisions;
			   __entry->slow = slow;),
	    TP_printk("mm=%p start=%#lx end=%#lx access=%s result=%d collisions=%u slow=%d",
		      __entry->mm, __entry->start, __entry->end, mnh_show_access(__entry->access),
		      __entry->result, __entry->collisions, __entry->slow)
);

TRACE_EVENT(mnh_collision,
	    TP_PROTO(const struct mm_struct *mm, unsigned long start, unsigned long end,
		     unsigned int attempt),
	    TP_ARGS(mm, start, end, attempt),
	    TP_STRUCT__entry(__field(const struct mm_struct *, mm)
			     __field(unsigned long, start)
			     __field(unsigned long, end)
			     __field(unsigned int, attempt)),
	    TP_fast_assign(__entry->mm = mm;
			   __entry->start = start;
			   __entry->end = end;
			   __entry->attempt = attempt;),
	    TP_printk("mm=%p start=%#lx end=%#lx attempt=%u", __entry->mm, __entry->start,
		      __entry->end, __entry->attempt)
);

TRACE_EVENT(mnh_slow_path,
	    TP_PROTO(const struct mm_struct *mm, unsigned long start, unsigned long end),
	    TP_ARGS(mm, start, end),
	    TP_STRUCT__entry(__field(const struct mm_struct *, mm)
			     __field(unsigned long, start)
			     __field(unsigned long, end)),
	    TP_fast_assign(__entry->mm = mm;
			   __entry->start = start;
			   __entry->end = end;),
	    TP_printk("mm=%p start=%#lx end=%#lx", __entry->mm, __entry->start, __entry->end)
);

TRACE_EVENT(mnh_invalidate,
	    TP_PROTO(const struct mm_struct *mm, unsigned long start, unsigned long end, int event,
		     bool blockable),
	    TP_ARGS(mm, start, end, event, blockable),
	    TP_STRUCT__entry(__field(const struct mm_struct *, mm)
			     __field(unsigned long, start)
			     __field(unsigned long, end)
			     __field(int, event)
			     __field(bool, blockable)),
	    TP_fast_assign(__entry->mm = mm;
			   __entry->start = start;
			   __entry->end = end;
			   __entry->event = event;
			   __entry->blockable = blockable;),
	    TP_printk("mm=%p start=%#lx end=%#lx event=%s blockable=%d", __entry->mm,
		      __entry->start, __entry->end, mnh_show_event(__entry->event),
		      __entry->blockable)
);

TRACE_EVENT(mnh_refuse,
	    TP_PROTO(const struct mm_struct *mm, unsigned long start, unsigned long end, int event),
	    TP_ARGS(mm, start, end, event),
	    TP_STRUCT__entry(__field(const struct mm_struct *, mm)
			     __field(unsigned long, start)
			     __field(unsigned long, end)
			     __field(int, event)),
	    TP_fast_assign(__entry->mm = mm;
			   __entry->start = start;
			   __entry->end = end;
			   __entry->event = event;),
	    TP_printk("mm=%p start=%#lx end=%#lx event=%s", __entry->mm, __entry->start,
		      __entry->end, mnh_show_event(__entry->event))
);

#endif /* _MMU_NOTIFIER_HELPERS_TRACE_H */

/* This part must be outside protection. The directory is on the include path. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE mmu_notifier_helpers_trace
#include <trace/define_trace.h>

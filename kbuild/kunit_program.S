/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The program of processes under test, as an ELF file, so that the suites need no user space. It is
 * a loop around one ioctl of its descriptor 0, which takes the result of the last system call and
 * gives the next one; see kunit/puppet.rs. Its first argument is its own path, which it removes.
 */
#include <linux/linkage.h>
#include <asm/unistd.h>

#define BASE	0x400000
/* Session::TURN and Session::FORKED. */
#define TURN	0xc0406b00
#define FORKED	0x6b01

	.section .rodata, "a"
	.balign	8
SYM_DATA_START(mnh_kunit_program)
.Lfile:
	.byte	0x7f, 'E', 'L', 'F', 2, 1, 1, 0
	.quad	0
	.short	2, 62				/* ET_EXEC, EM_X86_64 */
	.long	1
	.quad	BASE + .Lentry - .Lfile
	.quad	.Lsegment - .Lfile, 0
	.long	0
	.short	64, 56, 1, 0, 0, 0		/* one program header */
.Lsegment:
	.long	1, 5				/* PT_LOAD, PF_R | PF_X */
	.quad	0, BASE, BASE
	.quad	.Lend - .Lfile, .Lend - .Lfile
	.quad	0x1000

.Lentry:
	movl	$__NR_unlink, %eax
	movq	8(%rsp), %rdi
	syscall
	subq	$64, %rsp
	xorl	%eax, %eax
.Lturn:
	movq	%rax, (%rsp)
	movl	$__NR_ioctl, %eax
	xorl	%edi, %edi
	movl	$TURN, %esi
	movq	%rsp, %rdx
	syscall
	testq	%rax, %rax
	jnz	.Lexit
	movq	8(%rsp), %rax
	movq	16(%rsp), %rdi
	movq	24(%rsp), %rsi
	movq	32(%rsp), %rdx
	movq	40(%rsp), %r10
	movq	48(%rsp), %r8
	movq	56(%rsp), %r9
	syscall
	cmpq	$__NR_fork, 8(%rsp)
	jne	.Lturn
	testq	%rax, %rax
	jnz	.Lturn
	/* A child has a session of its own, in place of its parent's. */
	movl	$__NR_ioctl, %eax
	xorl	%edi, %edi
	movl	$FORKED, %esi
	syscall
	testq	%rax, %rax
	js	.Lexit
	movq	%rax, %rbx
	movq	%rax, %rdi
	movl	$__NR_dup2, %eax
	xorl	%esi, %esi
	syscall
	movq	%rbx, %rdi
	movl	$__NR_close, %eax
	syscall
	jmp	.Lturn
.Lexit:
	movl	$__NR_exit_group, %eax
	movl	$1, %edi
	syscall
.Lend:
SYM_DATA_END_LABEL(mnh_kunit_program, SYM_L_GLOBAL, mnh_kunit_program_end)

# SPDX-License-Identifier: GPL-2.0
#
# Adds our crates to the rust-project.json of the kernel's scripts/generate_rust_analyzer.py, which
# looks for crates below one directory only and knows of no dependencies between them:
#
#   jq --arg top DIRECTORY --arg built DIRECTORY -f rust_analyzer.jq
#
# The crates are below $top; the bindings that bindgen made for them are in $built.

.crates as $kernels
| def dependency:
    . as $name
    | {
        name: $name,
        crate: ($kernels | map(.display_name) | index($name)
          // error("the kernel's script has no crate \($name)"))
      };

  # As the kernel's script has a driver, and with what is set for modules.
  def crate($directory; $name; $env):
    {
      display_name: $name,
      root_module: "\($top)/\($directory)/\($name).rs",
      is_workspace_member: true,
      deps: ["core", "kernel", "pin_init", "zerocopy", "zerocopy_derive"] | map(dependency),
      cfg: ($kernels[("kernel" | dependency).crate].cfg + ["MODULE"]),
      edition: "2021",
      env: ({RUST_MODFILE: $name} + $env),
      source: {include_dirs: ["\($top)/\($directory)", $built], exclude_dirs: []}
    };

  def driver($directory; $name; $env):
    crate($directory; $name; $env)
    | .deps += [{name: "mmu_notifier_helpers", crate: ($kernels | length)}];

  .crates += [
    # The first: that is where the drivers look for it.
    crate("mmu_notifier_helpers/src"; "mmu_notifier_helpers";
      {MMU_NOTIFIER_HELPERS_BINDINGS: "\($built)/bindings_generated.rs"}),
    driver("mmu_notifier_helpers/kunit"; "mmu_notifier_helpers_kunit";
      {MMU_NOTIFIER_HELPERS_KUNIT_BINDINGS: "\($built)/kunit_bindings_generated.rs"}),
    driver("mmu_notifier_helpers/samples"; "rust_mmu_mirror"; {}),
    driver("gpu_mirror_rs/src"; "gpu_mirror_rs"; {})
  ]

"""For authors of drivers and of programs: the conformance suite, and a hypervisor in memory."""

"""What tests of jobs stand on: a bench in this process, and a stand of real processes."""

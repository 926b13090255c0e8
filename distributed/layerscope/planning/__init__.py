"""Everything that is settled before anything expensive starts: the job, and who works where. No torch, no Ray."""

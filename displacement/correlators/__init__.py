"""The classical baselines, batched over windows on the device. Each cites its method."""

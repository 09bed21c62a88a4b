"""What a run takes on a number of devices, before any is rented: memory, communication, time.

Everything is arithmetic on the configuration; nothing here imports torch.
"""

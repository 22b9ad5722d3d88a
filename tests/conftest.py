import torch
from hypothesis import settings

# Two pytest workers share two cores; more threads would only fight over them.
torch.set_num_threads(1)
# The same examples in every run: a failure can be repeated, and a mutation compared.
settings.register_profile(
    "ardyn", deadline=None, max_examples=25, derandomize=True, database=None, print_blob=False
)
settings.load_profile("ardyn")

"""The questions that can be put to a fit, a family a file.

A family is a class over `Result`, and `Fit` inherits from all of them: a question stands with its docstring in its
family, and what answers it in a file of its own in the room above. Another family is another file and another base of
`Fit`.
"""

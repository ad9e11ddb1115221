"""The strict readers and rule sets behind `adapterhub.spec.validate`: one kind of input a file."""

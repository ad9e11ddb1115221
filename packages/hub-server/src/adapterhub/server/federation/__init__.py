"""A hub in front of another one: what is not here is pulled through, under rules that keep names apart."""

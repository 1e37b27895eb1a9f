"""What the built-in provider is made of: rules that read an idea, measure a picture and paint one."""

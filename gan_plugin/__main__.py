from gan_plugin.cli import main

main()
